"""What the region memory costs: bytes, and milliseconds of a step and of a refresh of the prototypes, by its size: JSON lines.

    python benchmarks/memory_rate.py [--width 512] [--entries 1000 4000 15555] [--classes 20] [--regions 24] [--device cpu] [--repeat 5]

A step is what training does with the memory: contrast of `regions` anchors with all entries, forward and backward, and writing them.
15,555 entries are VOC trainaug's photos and tags; with 80 classes and 40,000 entries it is a bounded memory for COCO (500 a class).
Times are of the process on a CPU (the best of `repeat`), by the clock on CUDA.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

from rcatool.models.region_memory import RegionMemory, WriteRule
from rcatool.models.regions import Regions, mix_regions, region_contrast


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--entries", type=int, nargs="+", default=[1000, 4000, 15555])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--regions", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for entries in options.entries:
        print(json.dumps(_measure(entries, options)))


def _measure(entries: int, options: argparse.Namespace) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    slot_class = torch.arange(entries) % options.classes
    slots = torch.full((entries, options.classes), -1)
    slots[torch.arange(entries), slot_class] = torch.arange(entries)  # a photo with one tag each
    memory = RegionMemory(options.width, slot_class=slot_class, num_classes=options.classes, prototypes=10, slots=slots)
    memory.bank.copy_(torch.rand(entries, options.width, generator=generator))
    memory.visits.fill_(1)
    memory.to(options.device)
    photo = torch.randint(entries, (options.regions,), generator=generator)
    features = torch.rand(options.regions, options.width, generator=generator).to(options.device).requires_grad_()
    rows = torch.arange(options.regions, device=options.device)
    regions = Regions(features, rows, slot_class[photo].to(options.device), rows >= 0)
    score = torch.ones(options.regions, options.classes, device=options.device)

    def step() -> None:
        bank, cls = memory.entries
        region_contrast(mix_regions(regions, mixup_beta=8, generator=generator), bank, cls, temperature=0.07).backward()
        memory.update(regions, photo, score, rule=WriteRule(0.5, 0.3))

    timings = {
        "step_ms": _best(step, options), "prototypes_ms": _best(lambda: memory.refresh_prototypes(seed=0, iterations=30), options)
    }  # fmt: skip
    size = sum(buffer.numel() * buffer.element_size() for name, buffer in memory.named_buffers() if name in ("bank", "visits", "written"))
    return {
        "entries": entries, "classes": options.classes, "width": options.width, "megabytes": round(size / 1e6, 2), **timings,
        "megabytes_per_1000": round(size / 1e3 / entries, 3), "step_ms_per_1000": round(timings["step_ms"] * 1000 / entries, 3),
        "prototypes_ms_per_1000": round(timings["prototypes_ms"] * 1000 / entries, 2),
    }  # fmt: skip


def _best(work: Callable[[], None], options: argparse.Namespace) -> float:
    cuda = options.device.startswith("cuda")
    times = []
    for _ in range(options.repeat + 1):  # the first warms up
        start = time.perf_counter() if cuda else time.process_time()
        work()
        if cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() if cuda else time.process_time()) - start)
    return round(1000 * min(times[1:]), 2)


if __name__ == "__main__":
    main()
