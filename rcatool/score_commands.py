"""The commands that score masks and compare results: `rca score` and `rca compare`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rcatool import console
from rcatool.errors import ConfigError
from rcatool.options import Debug, Json, Quiet

app = typer.Typer()

Pred = Annotated[Path, typer.Argument(metavar="PRED", help="Folder of predicted masks, <id>.png.", show_default=False)]
Truth = Annotated[Path, typer.Argument(metavar="GT", help="Folder of true masks, <id>.png.", show_default=False)]
RunA = Annotated[Path, typer.Argument(metavar="RUN_A", help="A run directory.", show_default=False)]
RunB = Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, of the same data.", show_default=False)]
Classes = Annotated[int | None, typer.Option("--classes", metavar="N", help="Labels with the background; default: 21, or what masks hold.")]
List = Annotated[Path | None, typer.Option("--list", metavar="FILE", help="Score these photos only: one id per line.")]
Missing = Annotated[bool, typer.Option("--allow-missing", help="Score the photos that have both masks; the others are counted.")]
Against = Annotated[Path | None, typer.Option("--against", metavar="PRED2", help="Score these too, and the difference PRED - PRED2.")]
Boundary = Annotated[bool, typer.Option("--boundary", help="Boundary IoU too.")]
Breakdown = Annotated[bool, typer.Option("--breakdown", help="Also what kinds of pixels are wrong, and what each kind costs.")]
Workers = Annotated[int, typer.Option("--workers", metavar="N", min=-1, help="Processes; -1: as many as cores, at most 16.")]
Target = Annotated[
    str | None, typer.Option("--target", metavar="NAME", help="seg, pseudo, refined, cam, seg_1 or pseudo_2; default: the last both have.")
]


@app.command("score")
def _score(
    pred: Pred, gt: Truth, classes: Classes = None, list_: List = None, allow_missing: Missing = False, against: Against = None,
    boundary: Boundary = False, breakdown: Breakdown = False, workers: Workers = -1, as_json: Json = False,
    quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Score a folder of masks against a folder of true masks; no run directory.

    Example: rca score results/masks VOC2012/SegmentationClassAug --list VOC2012/ImageSets/Segmentation/val.txt
    """
    from rcatool import mask_score, score_tables

    console.configure(quiet=quiet)
    if list_ is not None and allow_missing:
        raise ConfigError("--list and --allow-missing: expected one of them", "a list names all photos that must be there")
    photos = mask_score.read_ids(list_) if list_ else "common" if allow_missing else None
    name = list_.stem if list_ else ""

    def measure(folder: Path) -> mask_score.Score:
        pairing = mask_score.pair_folders(folder, gt, photos=photos, name=name)
        with console.progress(f"score {folder.name}", total=len(pairing.ids)) as bar:
            return mask_score.score_folders(
                pairing, classes, boundary=boundary, breakdown=breakdown, workers=workers, bar=bar.advance
            )

    found = measure(pred)
    document = dict(found.document)
    tables = score_tables.mask_tables(document)
    if against is not None:
        other = measure(against)
        pair = mask_score.compare(other, found)
        document |= {"against": other.document, "difference": pair["difference"]}
        tables += score_tables.pair_tables(pair, [str(against), str(pred)])
    _print(document, tables, as_json)


@app.command("compare")
def _compare(run_a: RunA, run_b: RunB, target: Target = None, as_json: Json = False, debug: Debug = False) -> None:
    """The difference between two runs that were scored on the same photos, with its interval.

    Example: rca compare runs/cam runs/rca --target pseudo
    """
    from rcatool import comparison, score_tables

    if target not in (None, *comparison.TARGETS):
        raise ConfigError(f"--target: {target!r}, expected {', '.join(comparison.TARGETS)}")
    document = comparison.compare(run_a, run_b, target)
    names = [f"{run}" for run in (run_a, run_b)]
    _print(document, [_heading(document), *score_tables.pair_tables(document, names)], as_json)


def _heading(document: dict[str, Any]) -> str:
    rule = f", thresholds {document['threshold_rule']}" if "threshold_rule" in document else ""
    return f"{document['target']}: list {document['list']}, {document['images']} photos, ground truth {document['ground_truth']}{rule}"


def _print(document: dict[str, Any], tables: list[Any], as_json: bool) -> None:
    if as_json:
        console.print_result(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for table in tables:
        console.print_result(table)
