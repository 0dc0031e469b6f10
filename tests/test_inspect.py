"""`rca inspect memory`: its table against the checkpoint, its regions against a search of its own, what it refuses."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from PIL import Image
from tiny_run import TinyRun, assign, prepare_arguments, snapshot
from torch.nn import functional as F

from rcatool import leave_pages
from rcatool.data.manifest import split
from rcatool.report import page
from rcatool.run import Run
from rcatool.stages import inspect_memory
from rcatool.stages.networks import load_cls, read_data
from rcatool.world import World

Rca = Callable[..., Result]


def table(out: str) -> dict[str, list[str]]:
    """Rows of the printed table by their first cell."""
    lines = [line.strip("│┃ ").split("│") for line in out.splitlines() if line.startswith("│")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def memory_of(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "train-cls" / "final.pt", weights_only=True)["model"]
    return {name.removeprefix("memory."): value for name, value in state.items() if name.startswith("memory.")}


def test_table_and_picture(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/cams")
    done = rca("inspect", "memory", "--run", run)
    assert (done.code, "memory.png" in done.err) == (0, True), done.err
    memory, (classes, samples) = memory_of(run), read_data(Run(run))
    rows = table(done.out)
    assert list(rows) == list(classes.names)
    for cls, name in enumerate(classes.names):
        slots, filled, prototypes, visits, _, seen = rows[name]
        own = memory["slot_class"] == cls
        times = memory["visits"][own]
        assert (int(slots), int(filled)) == (int(own.sum()), int((times > 0).sum()))
        assert int(prototypes) == int(memory["prototype_valid"][cls].sum())
        assert float(visits) == pytest.approx(float(times[times > 0].float().mean()) if (times > 0).any() else 0, abs=0.051)
        assert int(seen) <= sum(cls in sample.classes for sample in split(samples, "train"))
    with Image.open(run / "memory.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50
    before = (run / "memory.png").read_bytes()
    assert rca("inspect", "memory", "--run", run, "--quiet").code == 0
    assert (run / "memory.png").read_bytes() == before  # the sample is seeded


def test_each_prototype_shows_its_nearest_regions(undisturbed: TinyRun, tmp_path: Path) -> None:
    run = Run(undisturbed.path)
    config = run.read_config()
    classes, samples = read_data(run)
    world = World(torch.device("cpu"), None)
    model = load_cls(run, config, world)
    train = split(samples, "train")
    found = inspect_memory.find_in_photos(model, train, Path(config.data.root), classes.num_classes, config=config, world=world)
    assert len(found.photo) == len(found.cls) == len(found.mask) == len(found.features) > 5
    assert all(int(cls) in photo.classes for cls, photo in zip(found.cls, found.photo, strict=True))
    checked = 0
    for cls in range(classes.num_classes):
        block = inspect_memory._block(model.memory, classes, cls, found, Path())
        prototypes = model.memory.prototypes[cls][model.memory.prototype_valid[cls]]
        own = [i for i in range(len(found.photo)) if int(found.cls[i]) == cls]
        likeness = {(k, i): float(F.cosine_similarity(q, found.features[i], dim=0)) for k, q in enumerate(prototypes) for i in own}
        owner = {i: max(range(len(prototypes)), key=lambda k: likeness[k, i]) for i in own}
        shown = [{Path(tile.photo) for tile in tiles} for _, tiles in block.columns]
        expected = []
        for k in range(len(prototypes)):
            order = sorted(own, key=lambda i: -likeness[k, i])
            mine = [i for i in order if owner[i] == k][:3] or order[:1]
            expected.append({Path(found.photo[i].image) for i in mine})
        assert sorted(map(sorted, shown)) == sorted(map(sorted, expected))
        counts = [int(heading.split()[0]) for heading, _ in block.columns]
        assert counts == sorted((list(owner.values()).count(k) for k in range(len(prototypes))), reverse=True)
        checked += len(shown)
    assert checked > 3


def test_one_class_few_photos_another_file(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    names = read_data(Run(undisturbed.path))[0].names
    before = snapshot(undisturbed.path)
    done = rca("inspect", "memory", "--run", undisturbed.path, "--class", names[1], "--photos", "2", "--out", "sub/one.png")
    assert done.code == 0, done.err
    assert list(table(done.out)) == [names[1]]
    assert int(table(done.out)[names[1]][-1]) <= 2
    assert (tmp_path / "sub" / "one.png").is_file()
    assert snapshot(undisturbed.path) == before  # nothing is written to the run
    again = rca("inspect", "memory", "--run", undisturbed.path, "--out", "sub/one.png")
    assert (again.code, "is there already" in again.err, "--force" in again.err) == (2, True, True)
    assert rca("inspect", "memory", "--run", undisturbed.path, "--out", "sub/one.png", "--photos", "2", "--force").code == 0


@pytest.mark.parametrize(
    ("options", "code", "message", "hint"),
    [
        (["--class", "rings"], 2, "--class rings: this data set has no such class", "did you mean ring?"),
        (["--class", "zebra"], 2, "--class zebra", "the classes are"),
        (["--out", "a.jpg"], 2, "expected a name that ends in .png", "--out a.png"),
        (["--photos", "0"], 2, "'--photos'", "--help"),
        (["--run", "nowhere"], 4, "no run here", "rca prepare"),
    ],
)
def test_what_cannot_be(rca: Rca, undisturbed: TinyRun, options: list[str], code: int, message: str, hint: str) -> None:
    done = rca("inspect", "memory", "--run", undisturbed.path, *options)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert hint in done.err


def test_a_run_without_memory_or_network(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    bare = undisturbed.copy(tmp_path / "bare", until="train-cls")
    missing = rca("inspect", "memory", "--run", bare)
    assert (missing.code, "inspect memory needs the output of train-cls" in missing.err) == (4, True)
    assert rca("train-cls", "--run", bare, *assign("cls.method=cam", "cls.epochs=1"), "--quiet").code == 0
    plain = rca("inspect", "memory", "--run", bare)
    assert (plain.code, "has no region memory" in plain.err, "--set cls.method=rca" in plain.err) == (4, True, True)


def test_without_prototypes_there_is_a_table_and_no_picture(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    (run / "memory.png").unlink()
    done = rca("train-cls", "--run", run, *assign("memory.prototypes=0", "cls.epochs=1"), "--quiet")
    assert done.code == 0
    assert "picture" not in done.err  # no warning of one that there cannot be
    assert 'id="memory"' not in (run / "report.html").read_text(encoding="utf-8")
    done = rca("inspect", "memory", "--run", run)
    assert (done.code, "there is no picture" in done.err) == (0, True)
    assert {row[2] for row in table(done.out).values()} == {"0"}
    assert not (run / "memory.png").exists()


@pytest.mark.parametrize("word", ["train-cls", "make-pseudo", "run", "prepare"])
def test_picture_and_page_that_a_kill_left_out_come_with_the_next_command(
    rca: Rca, undisturbed: TinyRun, tmp_path: Path, word: str
) -> None:
    """As after a kill between the end of `train-cls` and its picture: the page, if there is one, is older than the record."""
    run = undisturbed.copy(tmp_path / "run", until="" if word == "run" else "make-pseudo/cams")
    drawn = (run / "memory.png").read_bytes()
    (run / "memory.png").unlink()
    (run / "report.html").write_text("of an earlier step")
    os.utime(run / "report.html", ns=(0, 0))
    words = prepare_arguments(run, undisturbed.data) if word == "prepare" else [word, "--run", str(run)]
    done = rca(*words, "--quiet")
    assert done.code == 0, done.err
    assert (run / "memory.png").read_bytes() == drawn
    page = (run / "report.html").read_bytes()
    assert b'id="memory"' in page
    (run / "memory.png").unlink()
    assert rca(*words, "--quiet").code == 0
    assert not (run / "memory.png").exists()  # once: a picture that a person has removed stays away
    assert (run / "report.html").read_bytes() == page


def test_the_page_that_is_looked_for_is_the_one_that_is_written() -> None:
    assert leave_pages.PAGE == page.NAME
