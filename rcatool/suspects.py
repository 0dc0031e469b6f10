"""`rca inspect tags`: the tags that the classifier of a run doubts, as a document and as tables."""

from typing import TYPE_CHECKING, Any

from rcatool import console
from rcatool.data.labels import read_classes
from rcatool.data.manifest import read_manifest
from rcatool.errors import StageError
from rcatool.run import Run
from rcatool.steps import STEPS
from rcatool.tag_scores import NAME, Doubts, doubts, read_scores

if TYPE_CHECKING:
    from rich.console import RenderableType

KINDS = {"doubted": "tags that the classifier doubts", "unnamed": "classes that it sees without a tag"}
_COUNTED = {"doubted": "tags", "unnamed": "classes without a tag"}


def find(run: Run, *, most: int) -> dict[str, Any]:
    """A document of both kinds, `most` lines each. StageError where the run has no scores, DataError where they are broken."""
    run.read_config()
    folder = run.dir("make-pseudo/cams")
    if not (folder / NAME).is_file():
        again = " --force" if (folder / "stage.json").is_file() else ""
        hint = f"{STEPS['make-pseudo/cams'].command(run.root)}{again}"
        raise StageError("this run has no scores of the classifier (it has no CAMs, they came from elsewhere, or are older)", hint)
    prepared = run.dir("prepare")
    classes = read_classes(prepared / "classes.json")
    samples = read_manifest(prepared / "manifest.jsonl", num_classes=classes.num_classes)
    scores = read_scores(folder, num_classes=classes.num_classes)
    found = zip(KINDS, doubts(scores, samples, most=most), strict=True)
    return {"run": str(run.root), "photos": len(scores.ids), **{kind: _document(each, classes.names) for kind, each in found}}


def _document(found: Doubts, names: tuple[str, ...]) -> dict[str, Any]:
    first = [
        {"photo": one.photo, "class": names[one.cls], "probability": round(one.probability, 4), "beyond": one.beyond} for one in found.first
    ]
    return {"total": found.total, "beyond": found.beyond, "says_little": found.says_little, "first": first}


WEAK = "so many are unusual that the classifier is to be doubted, not the tags"


def table(document: dict[str, Any]) -> "RenderableType":
    """Both kinds as one table."""
    rows = [
        [KINDS[kind], one["photo"], one["class"], f"{100 * one['probability']:.1f}", "yes" if one["beyond"] else "no"]
        for kind in KINDS for one in document[kind]["first"]
    ]  # fmt: skip
    counts = ", ".join(f"{document[kind]['beyond']} of {document[kind]['total']} {what}" for kind, what in _COUNTED.items())
    title = f"{document['photos']} photos; past what is usual of the class: {counts}"
    title += f" ({WEAK})" if any(document[kind]["says_little"] for kind in KINDS) else ""
    return console.table(title, ("", "photo", "class", "probability %", "unusual"), rows)
