"""Numbers of each preset's classification network that a refactoring must not change: tests/golden/presets.json.

Of some presets: the parameters, and the terms of the loss on a small seeded batch with random weights and a filled memory.
After a change of numbers that is meant: `make golden`, and say why in the commit.
"""

import json
from pathlib import Path

import pytest
import torch

from rcatool import config_io
from rcatool.stages.cls_loss import Intake, StepState, step_loss
from rcatool.stages.networks import cls_network

GOLDEN = Path(__file__).with_name("golden") / "presets.json"
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


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: {key: round(value, 6) for key, value in numbers(name).items()} for name in NAMES}, indent=2) + "\n")
