"""How a training step of stage 1 and its memory grow with photos, classes and the side of the crop, as one JSON document.

    python benchmarks/growth.py [--device cuda] [--backbone mobilenet_v2] [--batch 8] [--steps 5] [--out FILE]

Each case is a process of its own: random photos with two tags each, the region memory full, all terms of the loss. `seconds_per_image` is
of processor time on a CPU, which other processes do not change, and of the clock on a GPU; `prototypes_seconds` is one refresh, and
`prototypes_rounds` how many rounds of k-means it took.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from rcatool import kmeans
from rcatool.config import Config
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network, make_optimizer
from rcatool.throughput import synchronise
from rcatool.world import make_world

PHOTOS, CLASSES, SIDE = 2_000, 20, 160
CASES = [
    *({"photos": PHOTOS * times} for times in (1, 4, 16)),
    *({"classes": count} for count in (80, 1_000)),
    *({"side": SIDE * times} for times in (2,)),
]


def main() -> None:
    """Measure every case and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--case", type=json.loads, help="one case, in this process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measure(options, **({"photos": PHOTOS, "classes": CLASSES, "side": SIDE} | options.case))))
        return
    words = [sys.executable, __file__, "--device", options.device, "--backbone", options.backbone]
    words += ["--batch", str(options.batch), "--steps", str(options.steps)]
    cases = [subprocess.run([*words, "--case", json.dumps(case)], check=True, capture_output=True, text=True) for case in CASES]
    text = json.dumps({"device": options.device, "torch": torch.__version__, "cases": [json.loads(one.stdout) for one in cases]}, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measure(options: argparse.Namespace, *, photos: int, classes: int, side: int) -> dict[str, Any]:
    """Steps of one case."""
    made = Config().model_dump()
    made["cls"] |= {"backbone": options.backbone, "weights": "none", "crop_size": side}
    config, world = Config.model_validate(made), make_world(device=options.device, precision="auto")
    torch.manual_seed(0)
    tags = torch.zeros(photos, classes, dtype=torch.bool)
    tags.scatter_(1, torch.rand(photos, classes).topk(2, dim=1).indices, True)
    model = world.place(cls_network(config, tags, pretrained=False)).train()
    assert model.memory is not None
    model.memory.bank.normal_()
    model.memory.visits.fill_(1)
    synchronise(world.device)
    clock = time.perf_counter if world.device.type == "cuda" else time.process_time
    start = clock()
    with patch.object(kmeans, "_means", wraps=kmeans._means) as rounds:
        model.memory.refresh_prototypes(seed=0, iterations=config.memory.kmeans_iterations)
    synchronise(world.device)
    prototypes, optimizer = clock() - start, make_optimizer(model, config.cls)
    intake = Intake(torch.zeros(classes, dtype=torch.long, device=world.device))
    images = torch.randn(options.batch, 3, side, side, device=world.device).contiguous(memory_format=torch.channels_last)
    state = StepState(config.memory.contrast_start, torch.Generator().manual_seed(0), intake)
    for step in range(options.steps + 1):
        if step == 1:  # the first warms up
            synchronise(world.device)
            start = clock()
        chosen = torch.randint(photos, (options.batch,))
        with world.autocast():
            losses = step_loss(model, (images, tags[chosen].float(), chosen), config, state)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
    synchronise(world.device)
    seconds = (clock() - start) / (options.steps * options.batch)
    peak = torch.cuda.max_memory_allocated() if world.device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    bank = model.memory.bank
    return {
        "photos": photos, "classes": classes, "side": side, "seconds_per_image": round(seconds, 5), "peak_mib": peak // 2**20,
        "memory_mib": bank.numel() * bank.element_size() // 2**20, "prototypes_seconds": round(prototypes, 4),
        "prototypes_rounds": rounds.call_count,
    }  # fmt: skip


if __name__ == "__main__":
    main()
