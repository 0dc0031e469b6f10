"""Maps that training keeps of real photos become their CAMs, of RCA and of the released code's method, which trains on them, too."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from test_voc_part import TRAIN, few_photos, read_tags
from tiny_run import assign
from torch.nn import functional as F

from rcatool.cams import load_cam
from rcatool.checkpoint import load_state
from rcatool.data.labels import IGNORE

Rca = Callable[..., Result]

SMALL = (
    "cls.backbone=mobilenet_v2", "cls.crop_size=96", "cls.resize_long=[96, 128]", "cls.lr=0.001", "cls.accumulate=confidence",
    "cls.accumulate_threshold=0", "cls.accumulate_start=0", "cam.maps=accumulated", "cam.scales=[0.5]", "memory.contrast_start=0",
    "memory.prototypes=2", "runtime.workers=0", "runtime.device=cpu", "runtime.log_every=1",
)  # fmt: skip
METHODS = {  # the seed is one whose heads start above zero: of a map that is negative everywhere nothing is kept
    "rca": ("cls.epochs=2", "cls.batch_size=2", "cls.head_lr=0.01", "pseudo.crf=none"),
    "official": (
        "cls.method=official", "cls.epochs=1", "cls.batch_size=1", "cls.head=grouped", "cls.head_width=8", "cls.resize_square=true",
        "cls.shuffle=false", "cls.flip=false", "cls.head_lr=0.02", "cls.nesterov=true", "cls.decay_all=true", "cls.schedule=step",
        "memory.size=6", "memory.confidence=0.4", "memory.contrast_weight=0.01", "memory.prototypes_start=0", "pseudo.rule=conflict",
        "pseudo.background=power", "seed=2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_maps_kept_in_training_become_cams_and_labels(rca: Rca, voc_part: Path, tmp_path: Path, method: str) -> None:
    run, root = tmp_path / "run", few_photos(voc_part, tmp_path / "VOC2012")
    weights = voc_part.parent / "weights" / "mobilenet_v2-imagenet-features-fp16.pth"
    settings = assign(f"cls.weights={weights}", *SMALL, *METHODS[method])
    for command in (["prepare", "voc", "--root", root, "--tags", voc_part / "cls_labels.npy", *settings], ["train-cls"], ["make-pseudo"]):
        done = rca(*command, "--run", run)
        assert done.code == 0, done.err
    lines = [json.loads(line) for line in (run / "train-cls" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4
    for step in steps:
        assert all(math.isfinite(value) for value in step.values())
        assert {"loss_o", "loss_p", "loss_contrast"} <= step.keys()
    assert steps[-1]["loss_o"] < steps[0]["loss_o"]
    state = load_state(run / "train-cls" / "final.pt")["model"]
    assert all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())
    assert bool((state["memory.visits"] > (method == "official")).any())  # its memory starts as noise that counts as one visit
    check_photos(run, root, read_tags(voc_part))


def check_photos(run: Path, root: Path, tags: dict[str, list[int]]) -> None:
    """Every CAM is the kept map of its photo and tag, resized, its maximum 1; every label is made of the photo's tags."""
    kept = load_state(run / "train-cls" / "accumulated.pt")
    assert bool(kept["seen"].all())
    place = 0
    for name in TRAIN:
        with Image.open(root / "JPEGImages" / f"{name}.jpg") as photo:
            width, height = photo.size
        keys, cam = load_cam(run / "make-pseudo" / "cams" / f"{name}.npz", size=(height, width))
        assert keys.tolist() == tags[name]
        grid = len(keys), -(-height // 8), -(-width // 8)
        own = kept["values"][place : place + math.prod(grid)].view(1, *grid).float()
        place += math.prod(grid)
        expected = F.interpolate(own, size=cam.shape[1:], mode="bilinear", align_corners=False)[0]
        expected = expected / expected.amax(dim=(1, 2), keepdim=True)
        np.testing.assert_allclose(cam, expected, atol=2e-3)  # stored in half precision
        label = np.asarray(Image.open(run / "make-pseudo" / "labels" / f"{name}.png"))
        assert label.shape == (height, width)
        assert set(np.unique(label).tolist()) <= {0, IGNORE, *(c + 1 for c in tags[name])}
    assert place == len(kept["values"])
