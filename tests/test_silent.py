"""Faults that no command stumbles over: each is planted and found, and clean data and weights get no word."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Result
from PIL import Image
from small_voc import make_photo
from tiny_run import TinyRun
from torch import nn

from rcatool.checkpoint import load_state, save_state
from rcatool.data.census import Census, Look
from rcatool.data.labels import ClassInfo
from rcatool.data.manifest import Sample
from rcatool.data.mismatch import mismatches
from rcatool.data.transforms import MEAN, STD
from rcatool.errors import TrainingError
from rcatool.metrics import sweep_edge
from rcatool.models.input_fit import AS_IS, WAYS, complaint, input_fit, not_finite
from rcatool.run import Run
from rcatool.run_checks import check_run
from rcatool.stages.weight_check import check_finite

Rca = Callable[..., Result]
NAMES = ("ant", "bee", "cat", "dog")


def census(photos: list[tuple[set[int], set[int] | None]]) -> dict[str, Any]:
    """The census of photos with tags and, where there is a mask, the mask values of objects."""
    found = Census(ClassInfo(NAMES))
    for number, (tags, values) in enumerate(photos):
        sample = Sample(f"p{number:03}", "train", "a.jpg", "m.png", (4, 4), tuple(sorted(tags)), 1, f"{number:016}")
        found.add(Look(sample, pixels=None if values is None else dict.fromkeys({0, *values}, 8), mask_digest="0"))
    return found.document()


TAGS = [{n % 4} if n % 3 else {n % 4, (n + 2) % 4} for n in range(40)]
TRUE = [{c + 1 for c in tags} for tags in TAGS]


def test_masks_that_fit_get_no_word() -> None:
    assert mismatches(census(list(zip(TAGS, TRUE, strict=True)))) == []
    assert mismatches(census([(tags, None) for tags in TAGS])) == []
    few_wrong = [(tags, set() if n % 5 == 0 else values) for n, (tags, values) in enumerate(zip(TAGS, TRUE, strict=True))]
    assert mismatches(census(few_wrong)) == []  # small objects without a pixel


@pytest.mark.parametrize(("by", "word"), [(-1, "low"), (1, "high")])
def test_masks_off_by_one(by: int, word: str) -> None:
    shifted = [{value + by for value in values} - {0, 5} for values in TRUE]
    [line] = mismatches(census(list(zip(TAGS, shifted, strict=True))))
    assert line.startswith("the masks are off by one class: in ")
    assert f"one too {word} for the tags" in line


def test_two_names_confused_and_a_tag_that_never_matches() -> None:
    swap = {1: 1, 2: 3, 3: 2, 4: 4}
    lines = mismatches(census([(tags, {swap[value] for value in values}) for tags, values in zip(TAGS, TRUE, strict=True)]))
    assert [line.split("'")[1] for line in lines] == ["bee", "cat"]
    assert "show 'cat' in its place" in lines[0]
    assert "show 'bee' in its place" in lines[1]
    [line] = mismatches(census([(tags, values - {4}) for tags, values in zip(TAGS, TRUE, strict=True)]))
    assert line.startswith("the tag 'dog' does not match the masks: ")
    assert "in its place" not in line


@pytest.mark.parametrize(("best", "found"), [(0.0, "everything is object"), (1.0, "everything is background"), (0.5, ""), (0.02, "")])
def test_a_threshold_at_the_edge(best: float, found: str) -> None:
    edge = sweep_edge({"threshold": best, "curve": [{"threshold": value / 50, "miou": 0.1} for value in range(51)]})
    assert found in edge
    assert bool(edge) == bool(found)
    assert sweep_edge({"threshold": 0.0, "curve": [{"threshold": 0.0}, {"threshold": 1.0}]}) == ""  # no sweep to speak of


def trained(way: Callable[[torch.Tensor], torch.Tensor], photos: list[torch.Tensor]) -> nn.Module:
    """A network whose statistics are those of `photos`, shown in some way."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12, momentum=None), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8, momentum=None)]
    network = nn.Sequential(*layers)
    network.train()
    with torch.no_grad():
        for photo in photos:
            network(way(photo))
    return network.train()


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    smooth = [nn.functional.interpolate(torch.rand(1, 3, 6, 6, generator=generator), 40, mode="bilinear") for _ in range(16)]
    return [(photo - mean) / std for photo in smooth]


@pytest.mark.parametrize("name", WAYS)
def test_weights_that_expect_other_pictures(name: str, photos: list[torch.Tensor]) -> None:
    network = trained(WAYS[name], photos[:8])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fit = input_fit(network, photos[8:])
    assert list(fit) == list(WAYS)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())  # looking changes nothing
    assert all(module.training for module in network.modules())
    assert complaint(fit).startswith(f"these weights seem to expect pictures as {name} " if name != AS_IS else "")
    assert (complaint(fit) == "") == (name == AS_IS)


def test_ways_are_what_they_say() -> None:
    raw = torch.rand(2, 3, 4, 5)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    shown = {name: way((raw - mean) / std) for name, way in WAYS.items()}
    torch.testing.assert_close(shown["values in [0, 1]"], raw)
    torch.testing.assert_close(shown["values in [-1, 1]"], raw * 2 - 1)
    torch.testing.assert_close(shown["values in 0..255 less their mean"], raw * 255 - mean * 255)
    torch.testing.assert_close(shown["BGR, in 0..255 less their mean"], (raw * 255 - mean * 255).flip(1))


def test_nothing_is_said_without_batch_normalisation(photos: list[torch.Tensor]) -> None:
    assert input_fit(nn.Conv2d(3, 4, 3), photos) == {}
    assert input_fit(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), photos) == {}  # never trained
    assert complaint({}) == ""


def test_weights_that_are_not_finite() -> None:
    state = {"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")]), "c": torch.tensor([float("inf")]), "n": torch.tensor(4)}
    assert not_finite(state) == ["b", "c"]
    check_finite("train-cls", {"a": state["a"], "n": state["n"]})
    with pytest.raises(TrainingError, match="2 tensors of the trained network are not finite .first: b."):
        check_finite("train-cls", state)


def test_doctor_lists_what_is_wrong_with_a_run(undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # weights are looked at by a process of its own
    run = undisturbed.copy(tmp_path / "run")
    clean = check_run(Run(run))
    assert {check.name for check in clean} >= {"tags and masks", "photos", "train-cls weights", "train-seg weights", "cam threshold"}
    assert {check.status for check in clean if check.name != "photos"} == {"ok"}, clean
    state = load_state(run / "train-cls" / "final.pt")
    next(iter(state["model"].values())).fill_(float("nan"))
    save_state(run / "train-cls" / "final.pt", state)
    summary = json.loads((run / "prepare" / "summary.json").read_text())
    summary["suspicious"]["classes_without_training_photo"] = ["ring"]
    (run / "prepare" / "summary.json").write_text(json.dumps(summary))
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    metrics["cam"]["threshold"] = 1.0
    (run / "eval" / "metrics.json").write_text(json.dumps(metrics))
    found = {(check.name, check.status): check.found for check in check_run(Run(run))}
    assert "1 tensors are not finite" in found["train-cls weights", "fail"]
    assert found["photos", "warn"] == "no training photo has the tag 'ring'"
    assert "at the edge of its sweep" in found["cam threshold", "warn"]
    assert check_run(Run(tmp_path / "none")) == []
    (run / "prepare" / "summary.json").write_text("{}")
    assert [check.status for check in check_run(Run(run))] == ["fail"]


def test_prepare_warns_of_masks_that_are_off_by_one(rca: Rca, tmp_path: Path) -> None:
    rows = ["image,tags"]
    for number in range(12):
        name, c = f"p{number}", number % 3
        make_photo(tmp_path / "photos" / f"{name}.jpg", number)
        with Image.open(tmp_path / "photos" / f"{name}.jpg") as photo:
            mask = np.full(photo.size[::-1], c, np.uint8)  # the class's index, and not its value, which is one more
        mask[0] = 0
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
        rows.append(f"{name}.jpg,{'abc'[c]}")
    (tmp_path / "tags.csv").write_text("\n".join(rows) + "\n")
    done = rca("prepare", "folder", "--run", "run", "--images", "photos", "--tags", "tags.csv", "--masks", "masks")
    assert done.code == 0, done.err
    assert done.err.count("the masks are off by one class") == 1
    shutil.rmtree(tmp_path / "run")
