"""Windows over steps, and intervals of probabilities."""

import numpy as np
import pytest

from vidfit.inference.timeline import Span, over_steps, spans, windows


def test_windows_cover_a_video_and_are_never_padded():
    assert windows(7, 5, 1) == [slice(0, 5), slice(1, 6), slice(2, 7)]
    assert windows(8, 5, 2) == [slice(0, 5), slice(2, 7), slice(3, 8)]
    assert windows(3, 5, 1) == [slice(0, 3)]


def test_a_step_has_the_mean_of_its_windows():
    found = over_steps(np.array([[0.2], [0.6]]), [slice(0, 2), slice(1, 3)], 3)
    np.testing.assert_allclose(found[:, 0], [0.2, 0.4, 0.6], rtol=1e-6)


def test_a_short_dip_does_not_end_an_interval():
    probabilities = np.array([0.1, 0.6, 0.35, 0.7, 0.2, 0.4, 0.1])
    (span,) = spans(probabilities, 0.5, 1, 6.8)
    assert span == pytest.approx((1.0, 4.0, 0.55))


def test_an_interval_ends_with_the_video():
    assert spans(np.array([0.0, 0.9, 0.9]), 0.5, 1, 3.4) == [Span(1.0, 3.4, 0.9)]
    assert spans(np.array([0.9, 0.9]), 0.5, 2, 0.8)[0].end == 0.8


def test_what_is_never_sure_is_no_interval():
    assert spans(np.array([0.4, 0.4]), 0.5, 1, 2.0) == []
