"""One training step of stage 1 beside the released implementation: images per second and peak memory, as one JSON document.

    python benchmarks/train_step.py --checkout DIR [--device cuda] [--batch 2] [--crop 160] [--rounds 5] [--out FILE]

DIR is a checkout of maeve07/RCA, outside this repository. `released`, `official` (the same training here) and `paper` train VGG16 with
random weights on the same random photos, in turn within each round, so that a busy machine hits all alike; the median of the rounds
counts. Peak memory is that of processes of their own. `parts` is what is not a network: regions, contrast and memory of a batch of 8
at 368 pixels, and the prototypes of an epoch; `paper_10000` has as many slots as the released code, `paper` 15,873. `--check`
compares values and gradients with the released code's instead.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import released
import step_parts
import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool import config_io
from rcatool.config import Config
from rcatool.models.official_loss import clamped_contrast
from rcatool.models.regions import mix_pairs, pool_regions, region_masks
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network, make_optimizer
from rcatool.world import make_world

CLASSES, PHOTOS = released.CLASSES, 10_582  # of VOC's training list
NAMES = ("released", "official", "paper")
Step = Callable[[], None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("import", *NAMES), help="peak memory of one of them")
    parser.add_argument("--parts-only", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only:
        print(peak_memory(options))
        return
    document: dict[str, Any] = {
        "device": device_name(options.device), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "batch": options.batch, "crop": options.crop, "rounds": options.rounds,
    }  # fmt: skip
    if options.check:
        document["difference"] = check(options)
    else:
        document["parts"] = parts(options)
        if not options.parts_only:
            document["step"] = steps(options)
            document["peak_memory_mib"] = {name: ask_peak_memory(name) for name in ("import", *NAMES)}
    text = json.dumps(document, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def device_name(device: str) -> str:
    """What the numbers are of."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"{device}, {torch.get_num_threads()} threads"


# ---- steps


def batch_of(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random photos, tags as frequent as VOC's, their places in the training set, and views, which nobody looks at."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, options.crop, options.crop, generator=generator)
    photo = torch.arange(options.batch)
    return images.to(options.device), tags_of(options.batch), photo, photo


def tags_of(photos: int) -> Tensor:
    """One tag for each photo and a second one for every other: 1.5 as in VOC."""
    number = torch.arange(photos)
    tags = F.one_hot(number % CLASSES, CLASSES)
    return (tags + F.one_hot((number * 7 + 3) % CLASSES, CLASSES) * (number % 2)[:, None]).clamp(max=1).float()


def settings_of(name: str, *more: str) -> Config:
    """The preset, with random weights."""
    return config_io.apply_settings(config_io.read_config(config_io.find_preset(f"voc12-vgg16-{name}")), ["cls.weights=none", *more])


def step_of(name: str, options: argparse.Namespace) -> Step:
    """A function that does one training step."""
    images, tags, photo, view = batch_of(options)
    torch.manual_seed(0)
    if name == "released":
        tags = tags.to(options.device)
        model = released.build(options.checkout, torch.device(options.device))
        optimizer = released.optimizer(model)

        def their_loss() -> Tensor:
            with released.on(torch.device(options.device)):
                return released.loss(model, images, tags)[0]

        return lambda: train(optimizer, their_loss)
    settings, world = settings_of(name), make_world(device=options.device, precision="fp32")
    ours = cls_network(settings, tags_of(PHOTOS) > 0, pretrained=False)
    released.draw_weights(ours)
    ours = world.place(ours).train()
    fill(ours.memory)
    optimizer = make_optimizer(ours, settings.cls)
    images = images.contiguous(memory_format=torch.channels_last)
    state = StepState(2, torch.Generator().manual_seed(0), Intake(torch.zeros(CLASSES, dtype=torch.long, device=options.device)))
    return lambda: train(optimizer, lambda: step_loss(ours, (images, tags, photo, view), settings, state)["loss"])


def train(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
    """Forward, backward, an update by next to nothing: random weights would diverge, and numbers that are none are no work."""
    for group in optimizer.param_groups:
        group["lr"] = 1e-9
    value = loss()
    assert bool(value.isfinite())
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of each, and how many times those of the released code; by the clock and by processor time."""
    functions = {name: step_of(name, options) for name in NAMES}
    seconds = interleaved(functions, options)
    rates = {name: {clock: round(options.batch / s, 4) for clock, s in each.items()} for name, each in seconds.items()}
    ratios = {name: round(seconds["released"]["cpu_s"] / seconds[name]["cpu_s"], 2) for name in NAMES}
    wall = {name: round(seconds["released"]["wall_s"] / seconds[name]["wall_s"], 2) for name in NAMES}
    return {"images_per_s": rates, "times_released_by_clock": wall, "times_released_by_processor": ratios, "seconds": seconds}


def interleaved(functions: dict[str, Step], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median seconds of each function, taken in turn, after a round to warm up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(options.rounds + 1):
        for name, function in functions.items():
            wait(options.device)
            wall, processor = time.perf_counter(), time.process_time()
            function()
            wait(options.device)
            taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: dict(zip(("wall_s", "cpu_s"), (round(statistics.median(column), 5) for column in zip(*times[1:], strict=True)), strict=True))
        for name, times in taken.items()
    }


def wait(device: str) -> None:
    """Until the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# ---- memory


def peak_memory(options: argparse.Namespace) -> int:
    """MiB that two steps take at most: of the GPU, or of this process."""
    if options.only != "import":
        step = step_of(options.only, options)
        step()
        step()
    if options.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() // 2**20
    # Not getrusage's number, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def ask_peak_memory(name: str) -> int:
    """The same in a process of its own."""
    words = [*sys.argv, "--only", name]
    return int(subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout.split()[-1])


# ---- the rest


def parts(options: argparse.Namespace) -> dict[str, Any]:
    """All that is not a network, on the features of 8 photos of 368 pixels."""
    tags = tags_of(8)
    settings = {"official": settings_of("official"), "paper": settings_of("paper")}
    settings["paper_10000"] = settings_of("paper", "memory.design=ring-ema")
    ours = {name: cls_network(each, tags_of(PHOTOS) > 0, pretrained=False) for name, each in settings.items()}
    for model in ours.values():
        fill(model.to(options.device).memory)
    bench = step_parts.Parts(options.checkout, options.device, tags)
    functions = bench.functions({name: model.memory for name, model in ours.items()}, settings)
    return step_parts.summary(interleaved(functions, options), steps_per_epoch=-(-PHOTOS // 8))


def fill(memory: Any) -> None:
    """Make every slot and prototype hold noise, as late in training each holds something."""
    memory.visits.fill_(1)
    memory.bank.normal_()
    memory.prototypes.normal_()
    memory.prototype_valid.fill_(True)
    memory.list_prototypes()


def check(options: argparse.Namespace) -> dict[str, float]:
    """Largest differences between the released code and `official` on the same weights, photos and mix-up, over their sizes."""
    device = torch.device(options.device)
    images, tags, photo, view = batch_of(options)
    torch.manual_seed(0)
    theirs = released.build(options.checkout, device)
    ours = cls_network(settings_of("official"), tags_of(PHOTOS) > 0, pretrained=False).to(device).train()
    released.copy_weights(theirs, ours)
    with released.on(device), patch("numpy.random.beta", lambda *_: 0.3), patch("torch.randperm", torch.arange):
        total, contrast = released.loss(theirs, images, tags.to(device))
    total.backward()
    maps = ours(images)
    masks = region_masks(maps.p, region_map="softmax")
    anchors = pool_regions(ours.contrast_features(maps.features), masks, tags)
    first = torch.stack([(anchors.image == image).nonzero()[0, 0] for image in anchors.image])  # of the same photo, as `arange` gives
    mixed = mix_pairs(anchors, first, torch.full_like(anchors.features[:, 0], 0.3))
    found = clamped_contrast(mixed, anchors.image, ours.memory.bank, num_classes=CLASSES, temperature=0.07)
    score_o, score_p = maps.final.mean(dim=(2, 3)), maps.p.mean(dim=(2, 3))
    told = tags.to(device)
    our_total = F.multilabel_soft_margin_loss(score_o, told) + 0.4 * F.multilabel_soft_margin_loss(score_p, told) + 0.01 * found
    our_total.backward()
    state = StepState(2, torch.Generator().manual_seed(0), Intake(torch.zeros(CLASSES, dtype=torch.long, device=device)))
    with torch.no_grad():
        step_loss(ours, (images, tags, photo, view), settings_of("official"), state)  # for the memory
    their_heads = [getattr(theirs, f"extra_convs{c}") for c in range(CLASSES)]
    bank = torch.cat([getattr(theirs, f"queue{c}") for c in range(CLASSES)])
    heads = [torch.cat([head[2].weight.grad for head in each]) for each in (their_heads, ours.o_head)]
    return {
        "map_p": apart(theirs.map_coarse, maps.p), "map_o": apart(theirs.map, maps.final), "contrast": apart(contrast, found),
        "loss": apart(total, our_total), "memory": apart(bank, ours.memory.bank), "slots_written": int(ours.memory.cursor.sum()),
        "gradient_first_layer": apart(theirs.features[0].weight.grad, ours.backbone.body.features[0].weight.grad),
        "gradient_heads": apart(*heads),
        "gradient_query": apart(theirs.Q.weight.grad, ours.query.weight.grad),
        "gradient_contrast_features": apart(theirs.extra_F[3].weight.grad, ours.contrast_features[3].weight.grad),
    }  # fmt: skip


def apart(theirs: Tensor, ours: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((theirs - ours).detach().abs().max() / theirs.detach().abs().max())


if __name__ == "__main__":
    main()
