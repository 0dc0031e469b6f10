"""What the processes of a command tell each other (torch.distributed): everything is as it is in a single process.

Each process computes its share of a batch. Whatever crosses photos (the regions of a batch, a mean over it) is gathered from all of them in
the order of their ranks, so that all compute the same loss, that of the whole batch; `average_gradients` then makes the gradients those
of one process. In a single process every function here is the identity.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from rcatool import process
from rcatool.errors import DataError, ProcessLost, RcaError, SetupError, together

T = TypeVar("T")
S = TypeVar("S", Tensor, Sequence[Any])

MEETING = "RCA_MEETING"  # environment: the file over which processes of `launch` find each other; torchrun has its own way
_PATIENCE = timedelta(days=2)  # the first process may be at work alone for long; one that dies is noticed at once all the same
_BLOCK = 512  # results per process that are exchanged at a time


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that the environment tells of, from here to the end. SetupError where they do not find each other."""
    if process.size() == 1 or distributed.is_initialized():
        yield
        return
    if "OMP_NUM_THREADS" not in os.environ:  # all processes of a machine share its cores
        torch.set_num_threads(max(1, torch.get_num_threads() // process.local_size()))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=_PATIENCE, **_meeting())
    except (RuntimeError, ValueError) as error:
        raise SetupError(f"the {process.size()} processes do not find each other ({error})", "use --procs N, or torchrun") from error
    with lost_named():
        yield
        wait()
    distributed.destroy_process_group()


def _meeting() -> dict[str, Any]:
    """How the processes find each other.

    After a restart by torchrun on one machine (--max-restarts) the store still has the addresses of those that are gone: each try has its
    own names in it.
    """
    if meeting := os.environ.get(MEETING):
        return {"init_method": f"file://{meeting}", "rank": process.rank(), "world_size": process.size()}
    store, number, count = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {"store": distributed.PrefixStore(f"attempt-{attempt}", store), "rank": number, "world_size": count}


@contextmanager
def lost_named() -> Iterator[None]:
    """Turn the error of an exchange with a process that is gone into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise ProcessLost("another process of this command has stopped", "its own message says why; the same command resumes") from error


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Number of processes that have joined."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def on_first(work: Callable[[], T]) -> T:
    """What `work` returns, or the RcaError it raises, called in the first process only; all wait for it."""
    if size() == 1:
        return work()
    told: list[Any] = [None]
    if rank() == 0:
        try:
            told = [(work(), None)]
        except RcaError as error:
            told = [(None, error)]
    distributed.broadcast_object_list(told, device=torch.device("cpu"))
    result, problem = told[0]
    if problem is not None:
        raise problem
    return result  # type: ignore[no-any-return]


def all_finished(broken: Sequence[DataError]) -> None:
    """Wait until all processes have finished their photos; one that met broken files then raises its DataError, and none goes on."""
    wait()
    if broken:
        raise together(broken)
    wait()


def share(items: S) -> S:
    """The items (rows of a tensor) that are this process's to do: by position, none twice, none left out."""
    return items[rank() :: size()]  # type: ignore[return-value]


def share_of(batch: Sequence[T]) -> Sequence[T]:
    """This process's part of a batch; the parts of all ranks, one after the other, are the batch."""
    return batch[rank() * len(batch) // size() : (rank() + 1) * len(batch) // size()]


def wait() -> None:
    """Until all processes are here."""
    if size() > 1:
        distributed.all_reduce(torch.zeros(1))  # not a barrier, which would take a GPU's stream


def collected(mine: Iterable[T], count: int) -> Iterator[T]:
    """The results of all processes in the order of `count` items, each process giving those of its `share` one after the other."""
    if size() == 1:
        yield from mine
        return
    results = iter(mine)
    for start in range(0, count, _BLOCK * size()):
        parts: list[Any] = [None] * size()
        distributed.all_gather_object(parts, list(islice(results, _BLOCK)))
        for index in range(min(_BLOCK * size(), count - start)):
            yield parts[index % size()][index // size()]


def all_rows(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks, one after the other; n may differ, even be 0.

    The gradient is right where every process computes the same from the result: that of the whole, `size` times, for
    `average_gradients` to divide.
    """
    return _AllRows.apply(rows) if size() > 1 else rows  # type: ignore[no-any-return, no-untyped-call]


def total(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, each of which computes the same from it (see `all_rows`)."""
    return all_rows(value[None]).sum(dim=0) if size() > 1 else value


def shared_sum(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, each of which goes on with it in its own way: the gradient is summed, too."""
    return _SharedSum.apply(value) if size() > 1 else value  # type: ignore[no-any-return, no-untyped-call]


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.long) for _ in range(size())]
        distributed.all_gather(counts, torch.tensor([len(rows)]))  # on the CPU: nothing waits for a GPU
        numbers = [int(count) for count in counts]
        padded = torch.cat([rows, rows.new_zeros(max(numbers) - len(rows), *rows.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in numbers]
        distributed.all_gather(parts, padded)
        context.first, context.count = sum(numbers[: rank()]), len(rows)
        return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient[context.first : context.first + context.count] * size()


class _SharedSum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        summed = value.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        summed = gradient.contiguous().clone()
        distributed.all_reduce(summed)
        return summed


@torch.no_grad()
def joint_norm(gradient: Tensor) -> Tensor:
    """The length of a gradient of which each process has its share, as it comes behind `all_rows`."""
    return (total(gradient.float().square().sum())).sqrt() / size() if size() > 1 else gradient.float().norm()


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Make every parameter's gradient the mean over all processes, in one exchange per dtype."""
    if size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = (flat / size()).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))


@torch.no_grad()
def take_first(*tensors: Tensor) -> None:
    """Overwrite tensors with those of the first process."""
    if size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


@torch.no_grad()
def take_largest(*tensors: Tensor) -> None:
    """Overwrite tensors (uint8, or bool) with the largest value over all processes, element by element."""
    if size() > 1:
        for tensor in tensors:
            largest = tensor.to(torch.uint8)
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
            tensor.copy_(largest)
