"""Oracle: files harmed by hand, one way at a time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result
from small_voc import make_photo, make_voc, write_list

from rcatool.run import Run

Rca = Callable[..., Result]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOC2012")


@pytest.fixture
def prepared(rca: Rca, base: Path, tmp_path: Path) -> Path:
    assert rca("prepare", "voc", "--root", base, "--run", "run", "--set", "runtime.workers=0").code == 0
    return tmp_path / "run"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_all_is_well(rca: Rca, prepared: Path) -> None:
    done = rca("prepare", "--verify", "--run", "run")
    assert (done.code, done.out) == (0, "5 photos and 5 masks are what they were\n")
    document = json.loads(rca("prepare", "--verify", "--run", "run", "--json").out)
    assert document == {"ok": True, "photos": 5, "masks": 5, "missing": [], "changed": [], "extra": [], "undigested": 0}


HARM: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gone": (Path.unlink, "missing", "no such file"),
    "one bit": (flip, "changed", "other content than when it was prepared"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "changed", ""),
    "another": (lambda path: shutil.copy(path.with_name(f"a3{path.suffix}"), path), "changed", ""),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "changed", ""),
}


@pytest.mark.parametrize("name", ["JPEGImages/a2.jpg", "SegmentationClassAug/a2.png"])
@pytest.mark.parametrize("harm", HARM)
def test_harm_is_found(rca: Rca, base: Path, prepared: Path, name: str, harm: str) -> None:
    act, kind, message = HARM[harm]
    if harm == "another" and name.endswith(".png"):
        (base / "SegmentationClassAug" / "a3.png").write_bytes((base / "JPEGImages" / "a3.jpg").read_bytes())
    act(base / name)
    done = rca("prepare", "--verify", "--run", "run", "--json")
    assert done.code == 3
    document = json.loads(done.out)
    assert not document["ok"]
    assert name in document[kind]
    assert f"warning: {base / name}: {message}" in done.err
    listed = (prepared / "verify-problems.txt").read_text().splitlines()
    assert len(listed) == len(document["missing"]) + len(document["changed"])
    assert str(prepared.name) in done.err.splitlines()[-1]


def test_all_of_many_are_listed_and_the_list_goes_when_all_is_well(rca: Rca, base: Path, prepared: Path) -> None:
    (base / "JPEGImages").rename(base / "away")
    done = rca("prepare", "--verify", "--run", "run")
    assert done.code == 3
    assert "error: 5 files missing, 0 changed, first: " in done.err
    assert len((prepared / "verify-problems.txt").read_text().splitlines()) == 5
    (base / "away").rename(base / "JPEGImages")
    assert rca("prepare", "--verify", "--run", "run").code == 0
    assert not (prepared / "verify-problems.txt").exists()


def test_other_files_are_named_and_do_no_harm(rca: Rca, base: Path, prepared: Path) -> None:
    make_photo(base / "JPEGImages" / "new.jpg")
    (base / "JPEGImages" / "notes.txt").write_text("")
    done = rca("prepare", "--verify", "--run", "run", "--json")
    assert (done.code, json.loads(done.out)["extra"]) == (0, ["JPEGImages/new.jpg"])


def test_data_that_moved(rca: Rca, base: Path, prepared: Path, tmp_path: Path) -> None:
    base.rename(tmp_path / "moved")
    assert rca("prepare", "--verify", "--run", "run").code == 3
    before = Run(prepared).read_config().data.root
    assert rca("prepare", "--verify", "--run", "run", "--set", "data.root=nowhere").code == 3
    assert Run(prepared).read_config().data.root == before
    assert rca("prepare", "--verify", "--run", "run", "--set", "data.root=moved").code == 0
    config = Run(prepared).read_config()
    assert config.data.root == str(tmp_path / "moved")
    assert Run(prepared).state("prepare", config).is_current


def test_several_processes_find_the_same(rca: Rca, base: Path, tmp_path: Path) -> None:
    ids = [f"c{number:03d}" for number in range(80)]
    for seed, image_id in enumerate(ids):
        make_photo(base / "JPEGImages" / f"{image_id}.jpg", 50 + seed)
    write_list(base, "train", ids)
    (base / "tags.txt").write_text("".join(f"{image_id} cat\n" for image_id in ids))
    assert rca("prepare", "voc", "--root", base, "--run", "run").code == 0
    for image_id in ids[5::30]:
        flip(base / "JPEGImages" / f"{image_id}.jpg")
    found = [json.loads(rca("prepare", "--verify", "--run", "run", "--json", "--set", f"runtime.workers={n}").out) for n in (0, 2)]
    assert found[0] == found[1]
    assert found[0]["changed"] == [f"JPEGImages/{image_id}.jpg" for image_id in ids[5::30]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("prepare --verify --run nowhere", 4, "nowhere: no run here"),
        ("prepare --verify --run run --set data.train_list=other", 4, "needs the output of prepare, which is stale (data.train_list"),
        ("prepare --verify --run run --set data.root=", 2, "data.root"),
        ("prepare --verify voc --root x", 2, "--verify takes no data set"),
        ("prepare --run run voc --root x", 2, "the options of `prepare voc` come after `voc`"),
        ("prepare --verfiy", 2, "no such option: --verfiy"),
    ],
)
def test_mistakes(rca: Rca, prepared: Path, words: str, code: int, message: str) -> None:
    done = rca(*words.split())
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_a_manifest_without_digests_of_masks(rca: Rca, base: Path, prepared: Path) -> None:
    """As earlier versions wrote it: what can be checked is checked, the rest is said."""
    path = prepared / "prepare" / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    text = "".join(json.dumps({key: value for key, value in line.items() if key != "mask_sha256"}) + "\n" for line in lines)
    path.write_text(text)
    record = json.loads((prepared / "prepare" / "stage.json").read_text())
    record["inventory"]["sizes"]["manifest.jsonl"] = len(text.encode())
    (prepared / "prepare" / "stage.json").write_text(json.dumps(record))
    done = rca("prepare", "--verify", "--run", "run")
    assert done.code == 0
    assert "5 masks were prepared without a digest" in done.err
    (base / "SegmentationClassAug" / "a2.png").unlink()
    assert rca("prepare", "--verify", "--run", "run").code == 3
