"""How fast maps walk over a photo of 500 x 375, beside the dense matrix power of the literature: one line of JSON.

    python benchmarks/walk_rate.py [--stride 4] [--maps 2] [--repeat 5] [--no-dense] [--double] [--device cpu]

Affinities are of the IRN kind (1 - highest boundary on the path, radius 5) for random boundaries; 2^8 steps, beta 10. The dense form
builds A of n x n in single precision (or double), divides A^beta by its column sums and squares it 8 times, which takes minutes.
Both are compared with the sparse walk in double precision; what each squaring rounds, the next ones double.
Each form runs in a process of its own, so that its peak memory is its own; `memory` is what the walk adds (on CUDA: device memory).
Time is of the process, so that a busy machine counts less: the best of `repeat` passes of the sparse form, one pass of the dense.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcatool.refine.pairs import far_ends, half_plane_offsets, path_maxima
from rcatool.refine.walk import random_walk

PHOTO, BETA, DOUBLINGS = (375, 500), 10.0, 8
OFFSETS = half_plane_offsets(5)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--maps", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-dense", action="store_true")
    parser.add_argument("--double", action="store_true", help="the dense form in double precision")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    sparse = _in_own_process(_sparse, options, options.repeat)
    exact = _sparse(*(part.double() for part in _scene(options))).cpu().numpy()
    document: dict[str, Any] = {
        "size": "500x375", "stride": options.stride, "radius": 5, "steps": 2**DOUBLINGS, "maps": options.maps, "device": options.device,
        "threads": torch.get_num_threads(), "sparse_seconds": round(sparse["seconds"], 4), "sparse_memory_mib": round(sparse["memory"]),
        "sparse_error": float(np.abs(sparse["maps"] - exact).max()),
    }  # fmt: skip
    if not options.no_dense:
        dense = _in_own_process(_dense, options, 1)
        document |= {
            "dense_seconds": round(dense["seconds"], 2), "dense_memory_mib": round(dense["memory"]),
            "times_faster": round(dense["seconds"] / sparse["seconds"], 1),
            "share_of_memory": round(sparse["memory"] / dense["memory"], 4),
            "dense_error": float(np.abs(dense["maps"] - exact).max()),
        }  # fmt: skip
    print(json.dumps(document))


def _scene(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Maps and affinities that do not depend on anything but the options."""
    size = tuple(-(-side // options.stride) for side in PHOTO)
    generator = torch.Generator().manual_seed(0)
    edge = torch.rand((1, *size), generator=generator) ** 8
    maps = torch.rand((options.maps, *size), generator=generator)
    return maps.to(options.device), (1 - path_maxima(edge, OFFSETS)[0]).to(options.device)


def _sparse(maps: Tensor, affinity: Tensor) -> Tensor:
    return random_walk(maps, affinity, OFFSETS, beta=BETA, steps=2**DOUBLINGS)


def _dense(maps: Tensor, affinity: Tensor) -> Tensor:
    height, width = maps.shape[1:]
    matrix = torch.eye(height * width, dtype=maps.dtype, device=maps.device)
    cells = torch.arange(height * width, device=maps.device).view(height, width)
    for (dy, dx), values in zip(OFFSETS, affinity, strict=True):
        inside = far_ends(torch.ones_like(values), (dy, dx), outside=0.0) > 0
        near, far = cells[inside], cells[inside] + dy * width + dx
        matrix[near, far] = matrix[far, near] = values[inside]
    matrix.pow_(BETA)
    matrix /= matrix.sum(dim=0, keepdim=True)
    for _ in range(DOUBLINGS):
        matrix = matrix @ matrix
    return (maps.flatten(1) @ matrix).view_as(maps)


def _in_own_process(walk: Callable[[Tensor, Tensor], Tensor], options: argparse.Namespace, repeat: int) -> dict[str, Any]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(there, walk, options, repeat))
    process.start()
    found: dict[str, Any] = here.recv()
    process.join()
    return found


def _measure(pipe: Connection, walk: Callable[[Tensor, Tensor], Tensor], options: argparse.Namespace, repeat: int) -> None:
    maps, affinity = _scene(options)
    if options.double and walk is _dense:
        maps, affinity = maps.double(), affinity.double()
    walk(maps[:, :20, :20], affinity[:, :20, :20])  # what a first call loads
    before, seconds = _memory(options.device), []
    for _ in range(repeat):
        start = time.process_time()
        out = walk(maps, affinity).cpu()
        seconds.append(time.process_time() - start)
    pipe.send({"seconds": min(seconds), "memory": _memory(options.device) - before, "maps": out.numpy()})


def _memory(device: str) -> float:
    """The most memory so far, MiB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    main()
