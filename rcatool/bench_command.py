"""`rca bench`: how fast each stage is on this machine."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from rcatool import console
from rcatool.options import Debug, Device, Json, Quiet, Settings

RunOption = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="A prepared run: its photos and settings; else made ones.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Also write what --json prints to this file.")]
Seconds = Annotated[float, typer.Option("--seconds", metavar="S", min=0.01, max=3600, help="How long to measure each stage, about.")]

_PHOTOS, _SIDE = 48, 416  # made photos, of about as many pixels as VOC's


def bench(
    run: RunOption = None, out: Out = None, seconds: Seconds = 5.0, set_: Settings = None,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Measure each stage on this machine, and how long VOC and COCO would take; about a minute, more where a step takes long.

    Example: rca bench --run runs/voc --out bench.json
    """
    console.configure(quiet=quiet)
    with TemporaryDirectory(prefix="rca-bench-") as folder:
        document = _measure(run, list(set_ or ()), device, Path(folder), seconds)
    text = json.dumps(document, indent=2)
    if out is not None:
        from rcatool.files import atomic_write

        atomic_write(out, text + "\n")
    if as_json:
        console.print_result(text)
        return
    for table in _tables(document):
        console.print_result(table)


def _measure(run: Path | None, assignments: list[str], device: str | None, folder: Path, seconds: float) -> dict[str, Any]:
    from rcatool import config_io, loading, workflow
    from rcatool.config import Config
    from rcatool.run import Run

    here = Run(folder / "run" if run is None else run)
    if run is None:
        made = [f"data.shapes_train={_PHOTOS}", f"data.shapes_val={_PHOTOS // 4}", f"data.shapes_size={_SIDE}"]
        workflow.prepare("shapes", workflow.Request(here.root), made)
        config = Config().model_copy(update={"data": here.read_config().data})
    else:
        config = here.read_config()
    config = config_io.apply_settings(config, assignments + ([] if device is None else [f"runtime.device={device}"]))
    here.require("prepare", config, by="bench")
    stage = loading.load("stages.bench")
    with loading.limits_watched("bench"):
        document: dict[str, Any] = stage.main(here, config, folder, seconds=seconds)
    return document | {"photos": "made" if run is None else str(run)}


def _tables(document: dict[str, Any]) -> list[Any]:
    matrix = document["matrix"]
    rows = [
        (
            row["stage"], f"{row['images_per_s']:.2f}", row["processes"], "-" if row["peak_memory_mib"] is None else row["peak_memory_mib"],
            _percent(row["waiting"]), f"{row['flop_per_image'] / 1e9:.1f}" if row["flop_per_image"] else "-",
            _percent(row["share_of_matrix_rate"]),
        )
        for row in document["stages"]
    ]  # fmt: skip
    title = (
        f"{document['device']}, {document['threads']} threads, {document['precision']}; "
        f"a product of {matrix['side']} x {matrix['side']} matrices runs at {matrix['flop_per_s'] / 1e9:.0f} GFLOP/s"
    )
    columns = ("stage", "images/s", "processes", "peak MiB", "waiting for data", "GFLOP/image", "of matrix rate")
    names = list(document["extrapolated"])
    stages = list(document["extrapolated"][names[0]])
    hours = [(stage, *(f"{document['extrapolated'][name][stage] / 3600:.2f}" for name in names)) for stage in stages]
    return [console.table(title, columns, rows), console.table("hours on this machine", ("stage", *names), hours)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
