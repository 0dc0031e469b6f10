"""Tag files and CSVs that `rca prepare` cannot use, met while a finished run is in place: it must stay as it is."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from breaks import Break, Hostile, cut, grow, png, remove, replace, write
from broken import COMPLETE_LIST, PREPARE_FOLDER, PREPARE_VOC, Case, Rca, check_prepare, make_data_sets, set_up, table
from small_voc import make_mask
from tiny_run import TinyRun

NPY = PREPARE_VOC + " --tags cls_labels.npy"
WHOLE = {name: np.eye(20)[0] for name in ("a1", "a2", "a3", "b1", "b2")}
MANY = f"a.jpg,{';'.join(f'tag{n}' for n in range(255))}\n"


@pytest.fixture(autouse=True)
def _data_sets(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)
    make_data_sets()


def labels(table: Mapping[str, object]) -> Break:
    """Write cls_labels.npy as it is passed around."""
    return lambda: np.save("cls_labels.npy", np.array(table, dtype=object), allow_pickle=True)


@table(
    Case("unknown tag", (replace("voc/tags.txt", "a2 person", "a2 persn"),),
         PREPARE_VOC, 3, r"tags\.txt:2: unknown class 'persn', expected some of aeroplane"),
    Case("photo with two lines of tags", (replace("voc/tags.txt", "a2", "a1"),), PREPARE_VOC, 3, r"tags\.txt:2: a second line for a1"),
    Case("training photo without tags", (replace("voc/tags.txt", "a2 person cat", "a2"),),
         PREPARE_VOC, 3, r"1 training photos have no tags in .*tags\.txt: a2", "--tags FILE"),
    Case("no tags at all", (remove("voc/tags.txt"),),
         PREPARE_VOC, 3, "no tags: neither .*tags.txt nor .*Annotations is there", "--tags FILE"),
    Case("tags not text", (write("voc/tags.txt", b"\x89PNG\xff"),), PREPARE_VOC, 3, r"tags\.txt: not UTF-8 text"),
    Case("tag file that is not there", (), PREPARE_VOC + " --tags nowhere.txt", 2, r"data\.tags: .*nowhere\.txt is not a file"),
    Case("annotation cut short", (remove("voc/tags.txt"), write("voc/Annotations/a1.xml", "<annotation><obj")),
         PREPARE_VOC, 3, r"a1\.xml: not a VOC annotation"),
    Case("annotation with an entity", (remove("voc/tags.txt"), write("voc/Annotations/a1.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")),
         PREPARE_VOC, 3, "document type, which is refused"),
    Case("annotation too large", (remove("voc/tags.txt"), write("voc/Annotations/a1.xml"), grow("voc/Annotations/a1.xml", 2**31)),
         PREPARE_VOC, 3, r"a1\.xml: more than \d+ bytes"),
    Case("cls_labels that runs code", (labels({"a1": Hostile()}),), NPY, 3, r"cls_labels\.npy: not a tag file .*open, which is refused"),
    Case("cls_labels that is a bare pickle", (lambda: Path("cls_labels.npy").write_bytes(pickle.dumps({"a1": [1]})),),
         NPY, 3, r"cls_labels\.npy: .*not a \.npy file of one object"),
    Case("cls_labels cut short", (labels(WHOLE), cut("cls_labels.npy")), NPY, 3, r"cls_labels\.npy: not a tag file"),
    Case("cls_labels of a plain array", (lambda: np.save("cls_labels.npy", np.eye(20)),),
         NPY, 3, r"cls_labels\.npy: .*not a \.npy file of one object"),
    Case("cls_labels of 80 classes", (labels({"a1": np.zeros(80)}),), NPY, 3, r"cls_labels\.npy: a1 has 80 values; expected 20 of 0 or 1"),
    Case("cls_labels with NaN", (labels(WHOLE | {"a2": np.full(20, np.nan)}),),
         NPY, 3, "a2 has 20 values, one of them nan; expected 20 of 0 or 1"),
    Case("cls_labels without a photo", (labels({"a1": np.eye(20)[0]}),),
         NPY, 3, r"2 training photos have no tags in .*cls_labels\.npy: a2, a3", "--tags FILE"),
)  # fmt: skip
def test_tags(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


def csv(text: str | bytes) -> tuple[Break]:
    return (write("tags.csv", text),)


@table(
    Case("CSV that is not there", (remove("tags.csv"),), PREPARE_FOLDER, 2, r"data\.tags: .*tags\.csv is not a file", "--tags FILE"),
    Case("CSV empty", csv(""), PREPARE_FOLDER, 3, r"tags\.csv: no rows, expected lines like"),
    Case("CSV with a header alone", csv("image,tags\n"), PREPARE_FOLDER, 3, r"tags\.csv: no rows"),
    Case("CSV with a NUL", csv("a.jpg,cat\nb.jpg,d\0g\n"), PREPARE_FOLDER, 3, r"tags\.csv:2: a NUL byte", r"CSV \(UTF-8\)"),
    Case("CSV of UTF-16", csv("a.jpg,cat\n".encode("utf-16")), PREPARE_FOLDER, 3, r"tags\.csv:1: ", r"CSV \(UTF-8\)"),
    Case("CSV of a spreadsheet", csv(b"PK\x03\x04\x00\x00xl/workbook.xml"),
         PREPARE_FOLDER, 3, r"tags\.csv:1: a NUL byte", r"CSV \(UTF-8\)"),
    Case("CSV with an open quote", csv('a.jpg,"cat\nb.jpg,dog\n'), PREPARE_FOLDER, 3, r"tags\.csv:2: not valid CSV"),
    Case("CSV with tags in columns", csv("a.jpg,cat,dog\n"),
         PREPARE_FOLDER, 3, r"tags\.csv:1: 3 cells, expected image,tags with tags separated by ;"),
    Case("CSV too large", (grow("tags.csv", 2**28 + 1),), PREPARE_FOLDER, 3, r"tags\.csv: more than 256 MiB"),
    Case("row without its photo", csv("a.jpg,cat\nd.jpg,dog\n"),
         PREPARE_FOLDER, 3, r"tags\.csv:2: no photo 'd\.jpg' in .*photos", r"did you mean \w\.jpg"),
    Case("row with a photo outside", csv("../photos/a.jpg,cat\n"),
         PREPARE_FOLDER, 3, r"tags\.csv:1: '\.\./photos/a\.jpg': expected a path below"),
    Case("row twice", csv("a.jpg,cat\na.jpg,dog\n"), PREPARE_FOLDER, 3, r"tags\.csv:2: 'a\.jpg' is there twice, first in tags\.csv:1"),
    Case("no row with a tag", csv("a.jpg,\nb.jpg,\n"), PREPARE_FOLDER, 3, r"tags\.csv: no row has a tag"),
    Case("unknown split", csv("image,tags,split\na.jpg,cat,test\n"),
         PREPARE_FOLDER, 3, r"tags\.csv:2: split 'test', expected one of train, val, tune"),
    Case("more classes than a PNG holds", csv(MANY), PREPARE_FOLDER, 3, "255 classes: expected at most 254"),
    Case("nothing left to train on", (), PREPARE_FOLDER + " --val-fraction 1", 3, r"tags\.csv: no row gives a training photo a tag"),
    Case("share that is none", (), PREPARE_FOLDER + " --val-fraction 1.5", 2, r"data\.val_fraction: expected at most 1, got 1\.5"),
    Case("no folder of photos", (), "prepare folder --images nowhere --tags tags.csv", 2, r"data\.images: .*/nowhere is not a folder"),
    Case("photo cut short in a folder", (cut("photos/b.jpg"),), PREPARE_FOLDER, 3, r"b\.jpg: cannot be decoded", COMPLETE_LIST),
    Case("photo spoiled in a folder", (write("photos/b.png", png(9, 9)), replace("tags.csv", "b.jpg", "b.png")),
         PREPARE_FOLDER, 3, r"b\.png: cannot be decoded", COMPLETE_LIST),
    Case("no folder of masks", (), PREPARE_FOLDER + " --masks nowhere", 2, r"data\.masks: .*/nowhere is not a folder"),
    Case("photos for masks", (), PREPARE_FOLDER + " --masks photos", 2, r"data\.masks and data\.images are the same folder"),
    Case("masks of other classes", (write("masks/classes.txt", "cat\ncow\n"),),
         PREPARE_FOLDER + " --masks masks", 3, r"classes\.txt: no line for 1 of the tags: dog"),
    Case("mask of a class that has no name", (lambda: make_mask(Path("masks/a.png"), [7]),),
         PREPARE_FOLDER + " --masks masks", 3, r"a\.png: mask value 7, expected 0\.\.2 or 255", COMPLETE_LIST),
)  # fmt: skip
def test_folders(rca: Rca, case: Case) -> None:
    check_prepare(rca, case)


def test_nothing_to_score_with(rca: Rca) -> None:
    """Photos without masks can be trained on; `eval` says what it cannot score, and that is no error."""
    assert rca(*PREPARE_FOLDER.split(), "--run", "mine", "--config", "run/config.yaml", "--val-fraction", "0.4").code == 0
    code, out, err = rca("run", "--run", "mine", "--json")
    assert (code, json.loads(out)) == (0, {})
    assert "train photos have no mask and are not scored" in err
    assert "no val photo has a mask, so the segmentation network cannot be scored" in err
