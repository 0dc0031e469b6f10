"""The commands that use a trained segmentation network: `rca predict`, `rca export network` and `rca export onnx`."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from rcatool import console
from rcatool.errors import ConfigError, DataError
from rcatool.options import DEFAULT_RUN, Debug, Device, Json, Quiet, RunDir

Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGES...", help="Photos, folders of photos, or patterns in quotes ('photos/**/*.jpg').", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for NAME.png, overlays/NAME.jpg and predictions.json.")]
Model = Annotated[Path | None, typer.Option("--model", metavar="FILE", help="A file of `rca export network`, instead of a run.")]
ScaleOption = Annotated[
    str,
    typer.Option("--scale", metavar="auto|original|PX", help="Long side at which the network sees a photo; auto: as the training photos."),
]
Tile = Annotated[
    int, typer.Option("--tile", metavar="PX", help="Largest side that the network sees at once; less needs less memory. Multiple of 64.")
]
Overlap = Annotated[int, typer.Option("--overlap", metavar="PX", help="How far tiles overlap; at most half a tile. Multiple of 64.")]
Flip = Annotated[bool, typer.Option("--flip", help="Also look at the mirror image: better, in twice the time.")]
Crf = Annotated[bool, typer.Option("--crf", help="Refine by the dense CRF of eval.crf: better, about a second a photo on a CPU.")]
Overlay = Annotated[bool, typer.Option("--overlay/--no-overlay", help="Also a picture of each photo in the colours of the classes.")]
Force = Annotated[bool, typer.Option("--force", help="Predict again what is there already.")]
File = Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")]
Replace = Annotated[bool, typer.Option("--force", help="Move aside what is at --out.")]


def predict(
    context: typer.Context, images: Images, out: Out, run: RunDir = DEFAULT_RUN, model: Model = None, scale: ScaleOption = "auto",
    tile: Tile = 1024, overlap: Overlap = 256, flip: Flip = False, crf: Crf = False, overlay: Overlay = True, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Segment photos of your own: any size, no tags.

    Example: rca predict photos --model network.safetensors --out masks
    """
    console.configure(quiet=quiet)
    source = context.get_parameter_source("run")
    if model is not None and source is not None and source.name == "COMMANDLINE":
        raise ConfigError("--model and --run are both given, which name two networks", "leave one of them out")
    from rcatool import loading
    from rcatool.photo_inputs import find_photos

    target = out.expanduser()
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--out: {out} is a file", "name a folder")
    chosen = read_scale(scale)
    found = find_photos(images, target)
    for line in found.notes:
        console.log(line)
    network, runtime = _network(run, model, device)
    stage = loading.load("stages.predict")
    from rcatool.tiling import Tiling

    name = str(run if model is None else model)
    tiling = Tiling(tile, overlap)
    plan = stage.Plan(found.photos, target, name, scale=chosen, tiling=tiling, flip=flip, crf=crf, overlay=overlay, force=force)
    with loading.limits_watched("predict"):
        document = stage.main(network, plan, **runtime)
    _report(document, [photo.name for photo in found.photos], plan, as_json)


def export_network(
    out: File, run: RunDir = DEFAULT_RUN, force: Replace = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """The segmentation network as one file, for rca predict --model FILE on any machine.

    Example: rca export network --run runs/voc --out network.safetensors
    """
    console.configure(quiet=quiet)
    target, here, config = _export(out, ".safetensors", run, force, by="export network")
    from rcatool import loading
    from rcatool.export.place import move_aside
    from rcatool.steps import last_network

    files = loading.load("network_file")
    network = files.read_run(here.root, step=last_network(config))
    move_aside(target)
    files.write_network(target, network)
    size = f"{target.stat().st_size / 1e6:.1f} MB"
    console.log(f"export: {network.card.design.backbone} for {len(network.card.labels)} labels, {size}, in {out}")
    console.log(f"use it: rca predict PHOTOS --model {out} --out DIR")


def export_onnx(
    out: File, run: RunDir = DEFAULT_RUN, force: Replace = False, quiet: Quiet = False, debug: Debug = False, as_json: Json = False
) -> None:
    """The segmentation network as ONNX, compared with torch on photos of the run; a file that differs is not kept.

    Example: rca export onnx --run runs/voc --out network.onnx
    """
    console.configure(quiet=quiet)
    target, here, config = _export(out, ".onnx", run, force, by="export onnx")
    from rcatool import loading
    from rcatool.export.place import move_aside
    from rcatool.files import atomic_write

    data, found = loading.load("stages.export_onnx").main(here, config)
    move_aside(target)
    atomic_write(target, data)
    worst = max(one.difference for one in found)
    if as_json:
        checked = [{"images": list(one.shape), "difference": one.difference} for one in found]
        console.print_result(json.dumps({"file": str(out), "bytes": len(data), "largest_difference": worst, "checked": checked}, indent=2))
        return
    for one in found:
        console.log(f"images {' x '.join(map(str, one.shape))}: largest difference of logits {one.difference:.2g}")
    console.print_result(f"{out}: {len(data) / 1e6:.1f} MB, logits equal torch's to {worst:.2g}")


def _export(out: Path, suffix: str, run: Path, force: bool, *, by: str) -> tuple[Path, Any, Any]:
    """Where a file of a run's network goes, the run and its settings; errors that need no torch come from here."""
    from rcatool.export.place import check_free
    from rcatool.run import Run
    from rcatool.steps import last_network

    if out.suffix != suffix:
        raise ConfigError(f"--out {out}: expected a name that ends in {suffix}", f"--out {out.with_suffix(suffix)}")
    here = Run(run)
    config = here.read_config()
    here.require(last_network(config), config, by=by)
    return check_free(out, force=force, keep=[run]), here, config


def read_scale(text: str) -> Any:
    """`--scale` as the segmenter takes it; ConfigError for anything but auto, original and a whole number."""
    if text in ("auto", "original"):
        return text
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65_535:
        raise ConfigError(f"--scale: {text!r}, expected auto, original, or the long side in pixels", "such as --scale 800")
    return int(text)


def _network(run: Path, model: Path | None, device: str | None) -> tuple[Any, dict[str, str]]:
    """The network that the options name, and the device and precision to use it with."""
    from rcatool import config_io, loading
    from rcatool.config import Config
    from rcatool.run import Run
    from rcatool.steps import last_network

    here = Run(run)
    config = Config() if model is not None else here.read_config()
    config = config_io.apply_settings(config, [] if device is None else [f"runtime.device={device}"])
    if model is None:
        here.require(last_network(config), config, by="predict")  # before torch is loaded
    files = loading.load("network_file")
    network = files.read_network(model.expanduser()) if model is not None else files.read_run(here.root, step=last_network(config))
    return network, {"device": config.runtime.device, "precision": config.runtime.precision}


def _report(document: dict[str, Any], names: list[str], plan: Any, as_json: bool) -> None:
    """What was found, in these photos; DataError at the end if some could not be read."""
    failed = document["failed"]
    if as_json:
        console.print_result(json.dumps(document, indent=2))
    else:
        photos = [document["photos"][name] for name in names if name in document["photos"]]
        pixels, number = Counter[str](), Counter[str]()
        for photo in photos:
            number.update(photo["classes"].keys())
            pixels.update({name: entry["pixels"] for name, entry in photo["classes"].items()})
        rows = [(name, number[name], f"{100 * pixels[name] / pixels.total():.1f} %") for name in document["classes"] if number[name]]
        if rows:
            console.print_result(console.table("", ("class", "photos", "of all pixels"), rows))
        where = f"{plan.out}, overlays in {plan.out / 'overlays'}" if plan.overlay else str(plan.out)
        console.print_result(f"{len(photos)} photos: masks and predictions.json in {where}")
    if failed:
        more = f", and {len(failed) - 1} more (see {plan.out / 'predictions.json'})" if len(failed) > 1 else ""
        raise DataError(f"{len(failed)} of {len(names)} photos could not be predicted: {next(iter(failed.values()))}{more}")
