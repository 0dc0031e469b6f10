"""Results that a refactoring must not change: tests/golden/.

presets.json: of some presets, the parameters, and the terms of the loss on a small seeded batch with random weights and a filled
memory. labels.json: the label map of a small picture by each rule. After a change that is meant: `make golden`, and say why in the commit.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rcatool import config_io
from rcatool.data.labels import IGNORE
from rcatool.pseudo import Doubts, LabelRule, Photo, photo_label
from rcatool.refine.crf import CrfParams
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network

GOLDEN = Path(__file__).with_name("golden") / "presets.json"
LABELS = GOLDEN.with_name("labels.json")
NAMES = ("coco14-vgg16-paper", "voc12-resnet50", "voc12-resnet50-paper", "voc12-vgg16", "voc12-vgg16-official", "voc12-vgg16-paper")


def numbers(name: str) -> dict[str, float]:
    """Parameters and, after one step that fills the memory, the loss terms of a second one."""
    settings = ["cls.weights=none", "memory.contrast_start=0", "memory.confidence=0", "cls.head_width=16"]
    config = config_io.apply_settings(config_io.read_config(config_io.find_preset(name)), settings)
    classes = 20 if name.startswith("voc12") else 80
    generator = torch.Generator().manual_seed(1)
    tags = (torch.rand(4, classes, generator=generator) < 0.1).float()
    tags[:, 0] = 1
    torch.manual_seed(0)
    model = cls_network(config, tags > 0, pretrained=False)
    parameters = sum(p.numel() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        for parameter in model.heads():
            parameter.mul_(10)  # scores that differ
    batch = (torch.randn(4, 3, 64, 64, generator=generator), tags, torch.arange(4), torch.zeros(4, 7, dtype=torch.long))
    state = StepState(2, torch.Generator().manual_seed(2), Intake(torch.zeros(classes, dtype=torch.long)))
    with torch.no_grad():
        step_loss(model, batch, config, state)
        model.memory.refresh_prototypes(seed=0, iterations=5)
        found = step_loss(model, batch, config, state)
    return {"parameters": parameters, **{key: float(value) for key, value in found.items()}}


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_a_preset(name: str) -> None:
    expected = json.loads(GOLDEN.read_text())[name]
    found = numbers(name)
    assert found.keys() == expected.keys()
    assert found["parameters"] == expected["parameters"]
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=2e-3, abs=1e-4), key  # sums in another order, on another processor


def toy_photo() -> Photo:
    """A red disc (class 4) and a green box (class 11) on grey, with blurred maps that miss part of both and spill over."""
    y, x = np.mgrid[:20, :32].astype(np.float32)
    image = np.repeat((90 + 2 * (x + y))[..., None], 3, axis=2).astype(np.uint8)
    image[(y - 9) ** 2 + (x - 9) ** 2 < 36] = (160, 100, 90)
    image[5:16, 20:29] = (110, 160, 120)
    middles = np.array([[8, 10], [11, 23]], np.float32)[:, :, None, None]
    cam = np.exp(-((y - middles[:, 0]) ** 2 + (x - middles[:, 1]) ** 2) / 40)
    return Photo(np.array([4, 11]), cam.astype(np.float32), image)


WEAK = CrfParams(3, gaussian_sxy=2, gaussian_weight=0.5, bilateral_sxy=8, bilateral_srgb=20, bilateral_weight=1)  # rules must differ
RULES = {
    "argmax": LabelRule("threshold", 0.3, 4.0, "none", None, 0.0),
    "argmax, crf": LabelRule("threshold", 0.3, 4.0, "seed", WEAK, 0.0),
    "power, crf": LabelRule("power", 0.3, 4.0, "seed", WEAK, 0.7),
    "confidence, crf": LabelRule("threshold", 0.3, 4.0, "irn", WEAK, 0.0, kind="confidence"),
    "conflict, crf": LabelRule("power", 0.3, 4.0, "seed", WEAK, 0.0, kind="conflict", doubts=Doubts(conflict=0.6, attention=0.45)),
}


def drawn(rule: str) -> list[str]:
    """The label map, a letter for each pixel."""
    letters = {0: ".", 5: "d", 12: "b", IGNORE: "?"}
    return ["".join(letters[value] for value in row) for row in photo_label(toy_photo(), RULES[rule]).tolist()]


@pytest.mark.parametrize("rule", RULES)
def test_labels_of_a_toy_photo(rule: str) -> None:
    assert drawn(rule) == json.loads(LABELS.read_text())[rule]


if __name__ == "__main__":
    LABELS.write_text(json.dumps({rule: drawn(rule) for rule in RULES}, indent=2) + "\n")
    GOLDEN.write_text(json.dumps({name: {key: round(value, 6) for key, value in numbers(name).items()} for name in NAMES}, indent=2) + "\n")
