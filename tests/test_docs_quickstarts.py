"""The quick starts of the README, typed as they stand there, on generated data; only networks and passes are made small."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from scipy.io import savemat
from tiny_run import CONFIG, TinyRun

from rcatool import config_io

Rca = Callable[..., Result]
README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def commands(heading: str) -> list[list[str]]:
    """The `rca` commands of the first code block under a heading, without `rca`."""
    section = README[README.index(f"## {heading}\n") :]
    block = re.search(r"\n\n((?:    .*\n)+)", section)
    assert block is not None
    return [shlex.split(line, comments=True)[1:] for line in block[1].splitlines()]


def small(words: list[str]) -> list[str]:
    """The same command with the tests' networks: the preset, which is for real ones, gives way to theirs."""
    if words[0] != "prepare":
        return words
    if "--config" in words:
        place = words.index("--config")
        config_io.find_preset(words[place + 1])
        words = words[:place] + words[place + 2 :]
    return [*words, "--config", str(CONFIG)]


def follow(rca: Rca, heading: str) -> list[Result]:
    """Type the commands; each must do its work."""
    done = []
    for words in commands(heading):
        result = rca(*small(words))
        assert result.code == 0, f"{words}: {result.err}"
        done.append(result)
    return done


def tags_of(data: Path) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in (data / "tags.txt").read_text().splitlines()}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that commands are typed in."""
    return tmp_path


def test_own_photos(rca: Rca, undisturbed: TinyRun, here: Path) -> None:
    tags = tags_of(undisturbed.data)
    shutil.copytree(undisturbed.data / "JPEGImages", here / "photos")
    names = {path.stem: path.name for path in (here / "photos").iterdir()}
    (here / "tags.csv").write_text("image,tags\n" + "".join(f"{names[one]},{';'.join(tags[one])}\n" for one in sorted(names)))
    last = follow(rca, "Your own photos")[-1]
    assert f"{len(names)} photos: masks and predictions.json in masks" in last.out
    assert (here / "runs/mine/report.html").is_file()
    for one, name in names.items():
        with Image.open(here / "masks" / f"{one}.png") as mask, Image.open(here / "photos" / name) as photo:
            assert mask.size == photo.size
            assert mask.mode == "P"
        assert (here / "masks/overlays" / f"{one}.jpg").is_file()


def make_voc(data: Path, here: Path) -> None:
    """VOC as its archives unpack, of generated photos: masks of the first half are VOC's own, of the others SBD's."""
    root, sbd = here / "VOCdevkit/VOC2012", here / "benchmark_RELEASE/dataset/cls"
    shutil.copytree(data, root)
    lists = root / "ImageSets/Segmentation"
    shutil.copy(lists / "train.txt", lists / "trainaug.txt")
    masks = sorted((root / "SegmentationClassAug").iterdir())
    (root / "SegmentationClass").mkdir(exist_ok=True)
    sbd.mkdir(parents=True)
    for number, path in enumerate(masks):
        if number % 2 == 0:
            path.rename(root / "SegmentationClass" / path.name)
        else:
            struct = {"Boundaries": np.zeros((20, 1)), "Segmentation": np.array(Image.open(path)), "CategoriesPresent": np.zeros(1)}
            savemat(sbd / f"{path.stem}.mat", {"GTcls": struct})
    shutil.rmtree(root / "SegmentationClassAug")


def test_voc(rca: Rca, undisturbed: TinyRun, here: Path) -> None:
    make_voc(undisturbed.data, here)
    done = follow(rca, "PASCAL VOC and COCO")
    assert [words[0] for words in commands("PASCAL VOC and COCO")] == ["prepare", "train-cls", "make-pseudo", "train-seg", "eval"]
    assert "segmentation network" in done[-1].out
    scores = json.loads((here / "runs/default/eval/metrics.json").read_text())
    first = json.loads((undisturbed.path / "eval/metrics.json").read_text())
    # Masks that went through VOC's and SBD's formats are the same masks, so all is as in a run that never left ours.
    assert scores["seg"]["miou"] == first["seg"]["miou"]
    assert scores["seg"]["protocol"]["ground_truth"] == first["seg"]["protocol"]["ground_truth"]


def test_other_peoples_cams(rca: Rca, undisturbed: TinyRun, here: Path) -> None:
    shutil.copytree(undisturbed.data, here / "VOCdevkit/VOC2012")
    lists = here / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    shutil.copy(lists / "train.txt", lists / "trainaug.txt")
    assert rca("export", "cams", "--run", undisturbed.path, "--format", "irn", "--out", "irn/result/cam").code == 0
    shutil.copytree(here / "VOCdevkit/VOC2012/SegmentationClassAug", here / "SegmentationClassAug")
    shutil.copy(lists / "val.txt", here / "val.txt")
    shutil.copytree(undisturbed.path / "eval/predictions", here / "predictions")
    done = follow(rca, "Other people's CAMs, and scores without a run")
    assert not (here / "runs/irn/train-cls").exists()
    metrics = json.loads((here / "runs/irn/eval/metrics.json").read_text())
    first = json.loads((undisturbed.path / "eval/metrics.json").read_text())
    assert abs(metrics["cam"]["miou"] - first["cam"]["miou"]) < 0.005  # the same maps, by way of half precision
    assert f"{100 * first['seg']['miou']:.1f}" in done[-1].out  # `rca score` says of predictions what `rca eval` says
