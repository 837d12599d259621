"""Awkward files: each is made here, and read as a player would play it."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.videos import awkward
from tests.videos.awkward import SHOW, TIMES
from tests.videos.making import BLUE, GREEN, RED, av, frames_at, plain, tone, write
from vidfit.errors import DataError
from vidfit.videos.decode import Picture, Reading, Sampling, Sound, is_video, read_steps


class Read:
    """Everything that a file gives."""

    def __init__(self, path: Path, sampling: Sampling | None = None) -> None:
        self.reading = Reading()
        events = list(read_steps(path, sampling or Sampling(picture_size=32), self.reading))
        self.pictures = {event.step: event.pixels for event in events if isinstance(event, Picture)}
        self.sounds = {event.step: event.samples for event in events if isinstance(event, Sound)}

    @property
    def colours(self) -> list[str]:
        """The name of each picture's colour, `-` for a step without one."""
        named = {"red": RED, "green": GREEN, "blue": BLUE}
        return [
            min(named, key=lambda name: np.abs(self.pictures[step].mean((0, 1)) - named[name]).sum())
            if step in self.pictures
            else "-"
            for step in range(self.reading.steps)
        ]

    @property
    def levels(self) -> list[float]:
        """Root mean square of each step's sound, rounded; -1 for a step without."""
        return [
            round(float(np.sqrt((self.sounds[step] ** 2).mean())), 1) if step in self.sounds else -1.0
            for step in range(self.reading.steps)
        ]


def hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.argmax(spectrum) * 16000 / len(samples))


class TestTime:
    @pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "avi", "mov", "ts"])
    def test_each_container_gives_a_picture_and_a_sound_a_second(self, tmp_path, ending):
        codecs = {"webm": ("libvpx-vp9", "libopus"), "avi": ("mpeg4", "mp3"), "ts": ("mpeg2video", "mp3")}
        codec, sound_codec = codecs.get(ending, ("mpeg4", "aac"))
        rate = 48000 if ending == "webm" else 16000
        path = write(
            tmp_path / f"clip.{ending}",
            SHOW,
            frames_at(25, 3),
            tone(440, 3, rate),
            sound_rate=rate,
            codec=codec,
            sound_codec=sound_codec,
            adjust=awkward.at_25_frames,
        )
        read = Read(path)
        assert read.colours == ["red", "green", "blue"]
        assert read.levels == [0.4, 0.4, 0.4]
        assert read.reading.duration == pytest.approx(3, abs=0.15)

    def test_variable_frame_rates_go_by_presentation_time(self, tmp_path):
        assert Read(awkward.variable_rate(tmp_path)).colours == ["red", "green", "blue"]

    def test_b_frames_come_in_the_order_of_presentation(self, tmp_path):
        def adjust(stream):
            stream.codec_context.max_b_frames = 3

        path = write(tmp_path / "clip.mp4", SHOW, TIMES, codec="libx264", adjust=adjust)
        assert Read(path).colours == ["red", "green", "blue"]

    @pytest.mark.parametrize("ending", ["mkv", "ts"])
    def test_a_first_timestamp_above_zero_is_time_zero(self, tmp_path, ending):
        read = Read(awkward.first_timestamp(tmp_path, ending))
        assert read.colours == ["red", "green", "blue"]
        assert read.levels == [0.4, 0.4, 0.4]
        assert read.reading.notes == []

    def test_negative_timestamps_keep_sound_and_picture_together(self, tmp_path):
        read = Read(awkward.negative_timestamps(tmp_path))
        assert read.colours == ["red", "green", "blue"]
        assert read.levels == [-1.0, 0.4, 0.4]

    def test_an_edit_list_hides_the_frames_before_it(self, tmp_path):
        assert Read(awkward.edit_list(tmp_path)).colours == ["green", "blue"]

    @pytest.mark.parametrize("ending", ["mp4", "mkv"])
    def test_sound_that_begins_later_stays_at_its_time(self, tmp_path, ending):
        read = Read(awkward.late_sound(tmp_path, ending))
        assert read.colours == ["red", "green", "blue"]
        assert read.levels[0] == read.levels[1] == -1
        assert read.levels[2] == pytest.approx(0.4, abs=0.05)

    def test_sound_that_ends_earlier_leaves_steps_without(self, tmp_path):
        assert Read(awkward.short_sound(tmp_path)).levels == [0.4, -1, -1]

    def test_a_picture_that_begins_later_leaves_steps_without(self, tmp_path):
        assert Read(awkward.late_picture(tmp_path)).colours == ["-", "-", "blue"]

    def test_the_last_picture_stays_while_sound_goes_on(self, tmp_path):
        path = write(tmp_path / "clip.mp4", SHOW, frames_at(12, 1.5), tone(440, 4))
        assert Read(path).colours == ["red", "green", "green", "green"]

    def test_two_steps_a_second_are_half_as_long(self, tmp_path):
        path = write(tmp_path / "clip.mp4", SHOW, TIMES, tone(440, 3))
        read = Read(path, Sampling(rate=2, picture_size=32))
        assert read.colours == ["red", "red", "green", "green", "blue", "blue"]
        assert len(read.sounds) == 6

    def test_one_frame_is_one_step(self, tmp_path):
        read = Read(awkward.one_frame(tmp_path))
        assert read.colours == ["blue"]
        assert read.reading.steps == 1

    def test_a_gif_is_a_video(self, tmp_path):
        assert Read(awkward.gif(tmp_path)).colours == ["red", "green", "blue"]

    def test_a_long_pause_between_frames_keeps_time(self, tmp_path):
        times = [0.0, 1.0, 20.0, 20.5]
        read = Read(write(tmp_path / "clip.mkv", lambda time: plain(RED if time < 19 else BLUE), times))
        assert read.colours == ["red"] * 20 + ["blue"]

    def test_an_absurd_timestamp_is_joined_and_told(self, tmp_path):
        times = [*frames_at(12, 1), *(time + 80000 for time in frames_at(12, 1))]
        read = Read(write(tmp_path / "clip.mkv", lambda time: plain(RED if time < 5 else BLUE), times))
        assert read.colours == ["red", "blue"]
        assert any("jump" in note for note in read.reading.notes)

    def test_a_length_that_lies_is_told_and_not_believed(self, tmp_path):
        read = Read(awkward.lying_length(tmp_path))
        assert read.colours == ["red", "green", "blue"]
        assert any("header says 90000.0 s" in note for note in read.reading.notes)


class TestSound:
    @pytest.mark.parametrize(
        ("rate", "layout", "channels"), [(8000, "mono", 1), (44100, "stereo", 2), (48000, "5.1", 6), (22050, "mono", 1)]
    )
    def test_any_rate_and_channels_become_16_khz_mono(self, tmp_path, rate, layout, channels):
        read = Read(awkward.with_sound(tmp_path, rate, layout, channels))
        assert [hertz(samples) for samples in read.sounds.values()] == pytest.approx([440] * 3, abs=2)
        assert read.levels == [0.4] * 3

    def test_channels_are_averaged(self, tmp_path):
        samples = np.concatenate([tone(440, 2), -tone(440, 2)])
        path = write(tmp_path / "clip.mkv", None, (), samples, layout="stereo", sound_codec="flac")
        assert Read(path).levels == [0, 0]

    @pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
    def test_every_sample_format_has_the_same_loudness(self, tmp_path, codec):
        path = write(tmp_path / "clip.mkv", None, (), tone(440, 2), sound_codec=codec)
        sound = Read(path).sounds[0]
        np.testing.assert_allclose(sound, tone(440, 2)[0, : len(sound)], atol=0.01)

    def test_sound_alone_has_no_pictures(self, tmp_path):
        read = Read(awkward.sound_alone(tmp_path))
        assert read.pictures == {}
        assert read.levels == [0.4] * 3

    def test_picture_alone_has_no_sounds(self, tmp_path):
        assert Read(awkward.picture_alone(tmp_path)).sounds == {}

    def test_of_two_tracks_the_default_one_is_heard(self, tmp_path):
        assert hertz(Read(awkward.two_tracks(tmp_path)).sounds[0]) == pytest.approx(900, abs=2)

    def test_cover_art_is_no_picture(self, tmp_path):
        path = awkward.cover_art(tmp_path)
        with av.open(str(path)) as container:
            assert len(container.streams.video) == 1
        read = Read(path)
        assert read.pictures == {}
        assert len(read.sounds) == 3


class TestDamage:
    def test_what_is_before_and_after_a_damaged_middle_is_used(self, tmp_path):
        read = Read(awkward.damaged_middle(tmp_path))
        assert read.colours[0] == "red"
        assert read.colours[-1] == "blue"
        assert read.reading.notes

        def test_frames_that_damage_puts_out_of_order_keep_time(self, tmp_path):
            read = Read(awkward.damaged_middle(tmp_path, "mp4"))
            assert read.reading.duration == pytest.approx(4, abs=0.1)
            assert len(read.pictures) == len(read.sounds) == 4
            assert ["damaged" in note for note in read.reading.notes] == [True]

    def test_a_cut_tail_is_told(self, tmp_path):
        read = Read(awkward.cut_tail(tmp_path))
        assert 2 <= read.reading.steps <= 7
        assert any("header says 8.0 s" in note for note in read.reading.notes)

    def test_a_file_whose_index_was_cut_off_is_an_error(self, tmp_path):
        with pytest.raises(DataError, match=r"index-cut-off\.mp4: is no video that can be opened"):
            Read(awkward.index_cut_off(tmp_path))

    def test_a_stream_without_index_or_timestamps_is_read(self, tmp_path):
        read = Read(awkward.no_index(tmp_path))
        assert read.colours[0] == "red"
        assert read.colours[-1] == "blue"

    @pytest.mark.parametrize("content", [b"", b"hello\n" * 500, os.urandom(5000), b"\x1b[31mred\n" * 200])
    def test_what_is_no_video_is_an_error_that_names_it(self, tmp_path, content):
        path = awkward.text(tmp_path, content)
        with pytest.raises(DataError, match=r"text\.mp4: .*; (replace it|give a video)"):
            Read(path)
        assert not is_video(path)

        @pytest.mark.parametrize("make", [awkward.random_bytes, awkward.folder_named_so, awkward.list_of_files])
        def test_other_things_named_mp4_are_errors_too(self, tmp_path, make):
            path = make(tmp_path)
            with pytest.raises(DataError, match=rf"{path.name}: is .*; replace it"):
                Read(path)
            assert not is_video(path)

    def test_a_file_without_one_whole_frame_is_an_error(self, tmp_path):
        path = write(tmp_path / "clip.mkv", SHOW, TIMES, codec="libx264")
        content = path.read_bytes()
        path.write_bytes(content[: content.index(b"\x1f\x43\xb6\x75") + 30])
        with pytest.raises(DataError, match=r"clip\.mkv"):
            Read(path)


class TestNames:
    @pytest.mark.parametrize("name", ["café 日本.mp4", "12:30.mp4", "100%d.mp4", "-x.mp4", "a'b\"c.mp4"])
    def test_any_name_opens(self, tmp_path, name):
        made = write(tmp_path / "clip.mp4", SHOW, TIMES)
        assert Read(made.rename(tmp_path / name)).colours == ["red", "green", "blue"]

    def test_content_decides_and_not_the_ending(self, tmp_path):
        made = write(tmp_path / "clip.mp4", SHOW, TIMES)
        assert is_video(made.rename(tmp_path / "clip.txt"))

    def test_a_still_picture_is_no_video(self, tmp_path):
        path = write(tmp_path / "still.png", SHOW, [0.0], codec="png", pixel_format="rgb24", format="image2")
        assert not is_video(path)
