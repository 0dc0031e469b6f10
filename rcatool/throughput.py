"""Where a loop's time goes: waiting for data, or at work."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

NOTICEABLE = 0.2  # share of the time waited for data that is worth saying


class Waiting:
    """Iterate over a loader and keep what share of the time since `restart` was spent waiting for its next item.

    On a GPU, which works while the program waits, a share near 0 is sure and one near 1 means that the GPU idles for most of that time.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self.items: Iterable[T] = items
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._start, self._waited = time.perf_counter(), 0.0

    @property
    def share(self) -> float:
        """Share of the time that was waited, in [0, 1]."""
        return self._waited / max(time.perf_counter() - self._start, 1e-9)

    @property
    def note(self) -> str:
        """What a progress bar says of it: nothing while the loader keeps up."""
        return f", {100 * self.share:.0f} % of the time waiting for data" if self.share > NOTICEABLE else ""

    def __iter__(self) -> Iterator[T]:
        items = iter(self.items)
        while True:
            before = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - before
            yield item  # type: ignore[misc]


class PeakMemory:
    """The most memory used since this was made: of the GPU where that is the device, else of this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif _RESET.exists():
            _RESET.write_text("5")  # Linux forgets the peak so far

    @property
    def mib(self) -> int | None:
        """In MiB; None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) // 2**20
        if not _STATUS.exists():
            return None
        return int(_STATUS.read_text().partition("VmHWM:")[2].split()[0]) // 2**10


_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def matrix_rate(device: torch.device, dtype: torch.dtype, *, side: int, seconds: float) -> float:
    """FLOP/s of a square matrix product on the device, best of those that fit in `seconds`; a product counts 2 side^3."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0 or time.perf_counter() < end:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(3):
            left @ right
        synchronise(device)
        best = max(best, 3 * 2 * side**3 / (time.perf_counter() - start))
    return best


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
