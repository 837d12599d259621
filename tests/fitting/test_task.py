"""What a member takes, known before it is trained."""

import pytest

from tests.fitting.making import write_names, write_videos
from vidfit.fitting.dataset import find_dataset, read_dataset
from vidfit.fitting.portfolio import Traits, portfolio
from vidfit.fitting.task import GRAPH_BYTES, Task
from vidfit.progress import silent
from vidfit.quantization.member import Member
from vidfit.recipe import MemberConfig
from vidfit.search.candidates import member_bytes


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("videos")
    shard, names = write_videos(folder / "a.tfrecord", 60), write_names(folder / "names.csv")
    dataset = find_dataset([str(shard)], (), names, folder / "run", silent)
    return Task(dataset, read_dataset(dataset, False, silent), 10**6, folder / "run", silent)


@pytest.mark.parametrize("frames", [1, 10])
def test_a_member_takes_what_was_said_before(task: Task, frames: int):
    """Small tensors stay float32, and take four times as much as in 8 bits."""
    for _, settings in portfolio(Traits(videos=60, classes=4, size=16, frames=frames), lambda _: True):
        info = task.data.member_info("tried", MemberConfig.model_validate(settings))
        quantized = Member(info, dict(info.build().state_dict())).quantized()
        assert task.least_bytes(settings) == member_bytes(quantized) + GRAPH_BYTES
