"""docs/files.md against a run: every file that is there is on the page, and every field of its JSON files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TinyRun

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "files.md").read_text(encoding="utf-8")
TREE = PAGE[PAGE.index("RUN/\n") : PAGE.index("```\n", PAGE.index("RUN/\n"))]
SPANS = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
WORDS = {part for span in SPANS for part in re.split(r"[^\w-]+", span)}


def described(relative: str) -> bool:
    """Whether the tree of the page has a file of this path."""
    folder, _, name = relative.rpartition("/")
    name = re.sub(r"^(train|val)_\d+", "<id>", name)
    if not folder:
        return name in TREE
    for line in TREE.splitlines():
        place = line.split()[0].rstrip("/") if line.split() else ""
        inside = folder == place or folder.startswith(f"{place}/")
        wanted = f"{folder[len(place) :].strip('/')}/{name}".strip("/") if inside else ""
        if inside and (wanted in line or (place == "train-seg-2" and name in TREE) or wanted.startswith("predictions-1/")):
            return True
    return folder.split("/")[0] in ("old", "shapes")


def test_every_file_of_a_run_is_on_the_page(two_rounds: Path) -> None:
    files = [path.relative_to(two_rounds).as_posix() for path in two_rounds.rglob("*") if path.is_file()]
    assert len(files) > 60
    assert [file for file in files if not described(file)] == []
    assert not described("eval/other.json")
    assert not described("prepare/train_00001.png")


def fields(document: Any) -> set[str]:
    return set(document) if isinstance(document, dict) else set()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("step", ["prepare", "train-cls", "make-pseudo/cams", "train-seg", "eval"])
def test_fields_of_a_record(undisturbed: TinyRun, step: str) -> None:
    assert fields(json.loads((undisturbed.path / step / "stage.json").read_text())) <= WORDS


def test_fields_of_the_other_files(undisturbed: TinyRun) -> None:
    run = undisturbed.path
    found = set().union(*(fields(entry) for entry in lines(run / "prepare/manifest.jsonl")))
    found |= set().union(*(fields(entry) | fields(entry.get("memory")) for entry in lines(run / "train-cls/log.jsonl")))
    found |= set().union(*(fields(entry) for entry in lines(run / "train-seg/log.jsonl"))) - {"loss_o", "loss_p", "loss_contrast"}
    found |= fields(json.loads((run / "prepare/classes.json").read_text()))
    summary = json.loads((run / "prepare/summary.json").read_text())
    found |= set().union(*(fields(split) for split in summary["splits"].values())) | fields(summary["suspicious"])
    for scores in json.loads((run / "eval/metrics.json").read_text()).values():
        found |= fields(scores) | fields(scores.get("breakdown")) | fields(scores.get("boundary"))
    assert found - WORDS - {"loss_o", "loss_p", "loss_contrast", "grad_o", "grad_p"} == set()
