"""Several processes that work as one: what `torchrun` starts, each with a rank, on one machine or on many.

Rank 0 leads. It alone runs the command: it reads the recipe, keeps the run folder, prints. The others follow. They wait
for a *job*, a function that all ranks call together with the same arguments, and then for the next.

Outside a job, every process is rank 0 of 1, as without torchrun. So only code inside jobs knows of ranks: training, and
what reads many shards.

Ranks find each other by the variables that torchrun sets. They talk by gloo between CPUs and by NCCL between GPUs. Rank
n of a machine has its GPU n. Jobs and their arguments travel as pickles between processes of one user. All ranks read
the same paths, so several machines need a shared file system.

PyTorch is imported only where ranks talk, because a single process should not wait for it.

Traded away: while rank 0 does alone what cannot be divided (quantising, the search, packing), the others idle.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from vidfit.errors import VidfitError
from vidfit.processes import end_with_parent

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Followers wait as long as the leader searches and packs. A rank that dies ends the wait, for torchrun ends them all.
_PATIENCE = timedelta(days=30)

_ranks, _rank = 1, 0
_working_together = False


def run(command: Callable[[], None]) -> None:
    """Run a command on rank 0, while the other ranks follow it; without torchrun just run it.

    Raises:
        VidfitError: there are more processes than GPUs on a machine.
        ConnectionError: a rank was killed.
        whatever the command or a job raises: on the first rank that fails. The others leave silently, because their
            errors only follow from that one.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's, which may be killed
        end_with_parent()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        command()
        return
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, ranks = next(rendezvous("env://"))
    except ValueError as error:  # a variable is missing
        raise VidfitError(f"WORLD_SIZE is set, but {error}; start several processes with torchrun") from error
    try:
        _join(store, rank, ranks)
        try:
            _follow() if rank else command()
        finally:
            # After a failure inside a job the other ranks are in the middle of it: they hear when the connection ends.
            if rank == 0 and not _working_together:
                _broadcast(None)
    except (KeyboardInterrupt, SystemExit):
        if rank:  # A signal stopped all ranks; the leader tells of it.
            sys.exit(1)
        raise
    except Exception as error:
        # torchrun sends it to all at the first failure; who is leaving need not be told.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not _is_first_to_fail(store):
            sys.exit(1)
        if isinstance(error, DistError) or "/gloo/" in str(error):
            raise ConnectionError(
                "another of the processes was killed, or its machine is gone; call again to go on"
            ) from error
        raise
    finally:
        _leave()


def on_all_ranks(
    job: Callable[..., Result], *arguments: Any, rank_0_only: Mapping[str, Any] | None = None, **options: Any
) -> Result:
    """Call a function on all ranks; gives what it returns on this one. To be called by the leader.

    Arguments:
        job: of a module, not a lambda or a closure.
        arguments, options: that can be pickled.
        rank_0_only: keyword arguments that rank 0 alone gets, such as what shows the progress.

    Raises:
        whatever the job raises on this rank.
    """
    assert not _working_together
    if _ranks > 1:
        _broadcast((job, arguments, options))
    return _work(job, *arguments, **options, **(rank_0_only or {}))


def available_ranks() -> int:
    """Ranks that there are for a job."""
    return _ranks


def rank() -> int:
    """This process's rank in a job; 0 outside."""
    return _rank if _working_together else 0


def world_size() -> int:
    """Ranks that work together: in a job all, outside 1."""
    return _ranks if _working_together else 1


def cores_per_rank() -> int:
    """Cores of this machine for each of its ranks in a job; 0, for all of them, outside."""
    return max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])) if _working_together else 0


def share_of_rank(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's part of some items: every `world_size()`-th from `rank()` on."""
    return items[rank() :: world_size()]


def gather_in_order(results: Iterable[Result], items: int) -> Iterator[Result]:
    """What the ranks make of some items, one by one and on every rank, in the order of the items.

    Arguments:
        results: of this rank's share of the items.
        items: how many there are.

    Raises:
        VidfitError: in its place, what any rank raised for an item.
    """
    if world_size() == 1:
        yield from results
        return
    own = iter(results)
    for first in range(0, items, world_size()):
        outcome = _outcome(lambda: next(own)) if first + rank() < items else None
        for other in _gathered(outcome)[: items - first]:
            yield _raised(other)


def on_rank_0(work: Callable[[], Result]) -> Result:
    """Do something on rank 0 while the others wait; gives its result on every rank.

    Raises:
        VidfitError: on every rank, what it raised.
    """
    if world_size() == 1:
        return work()
    return _raised(_broadcast(_outcome(work) if rank() == 0 else None))


def all_gather(*numbers: int) -> list[tuple[int, ...]]:
    """The numbers that each rank gave, rank by rank."""
    if world_size() == 1:
        return [numbers]
    import torch
    import torch.distributed as dist

    own = torch.tensor(numbers, dtype=torch.int64)
    gathered = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(gathered, own)
    return [tuple(tensor.tolist()) for tensor in gathered]


def all_sum(number: int) -> int:
    """The sum of what each rank gave."""
    return sum(given for (given,) in all_gather(number))


def all_reduce_(tensors: "Iterable[torch.Tensor]") -> None:
    """Replace each tensor by its sum over the ranks. The sums are equal bit for bit on all ranks."""
    if world_size() > 1:
        import torch.distributed as dist

        for transfer in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            assert transfer is not None
            transfer.wait()


def _is_first_to_fail(store: Any) -> bool:
    from torch.distributed import DistError

    try:
        return store.add("failures", 1) == 1
    except DistError:  # the machine that keeps it has failed
        return False


def _join(store: Any, rank: int, ranks: int) -> None:
    global _ranks, _rank
    import torch
    import torch.distributed as dist

    # This module's default arguments hold the group that exists when it is first imported, and torch._dynamo
    # imports it. Import it while there is none: a group that is held keeps its threads when it is destroyed.
    import torch.distributed.nn.functional

    backend = "gloo"
    if torch.cuda.is_available():
        _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=_PATIENCE)
    _ranks, _rank = ranks, rank


def _leave() -> None:
    """End the group and its threads, also after a failure.

    A thread of gloo that is left can abort the process at exit. It needs the GIL to free the last tensor that it sent.
    But a Python that is exiting ends the thread inside a C++ destructor, and C++ then calls `std::terminate`
    (https://github.com/pytorch/pytorch/issues/190489).
    """
    global _ranks
    if _ranks > 1:
        import torch.distributed as dist

        if _working_together:  # a transfer may be waiting for a rank that has left
            dist.distributed_c10d._get_default_group().abort()
        dist.destroy_process_group()
        _ranks = 1


def _take_gpu(local_rank: int) -> None:
    import torch

    if local_rank >= torch.cuda.device_count():
        raise VidfitError(
            f"process {local_rank} of this machine has no GPU, for it has {torch.cuda.device_count()}; "
            "give torchrun --nproc-per-node no more"
        )
    torch.cuda.set_device(local_rank)


def _follow() -> None:
    while called := _broadcast(None):
        job, arguments, options = called
        _work(job, *arguments, **options)


def _work(job: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    global _working_together
    _working_together = _ranks > 1
    result = job(*arguments, **options)
    _working_together = False
    return result


def _broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _gathered(value: Any) -> list[Any]:
    """The values of all ranks, on every rank."""
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _outcome(work: Callable[[], Result]) -> Result | VidfitError:
    try:
        return work()
    except VidfitError as error:
        return error


def _raised(outcome: Result | VidfitError) -> Result:
    if isinstance(outcome, VidfitError):
        raise outcome
    return outcome
