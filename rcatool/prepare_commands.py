"""`rca prepare ...`: one command for each kind of data set, and `rca prepare --verify`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rcatool import console
from rcatool.errors import DataError
from rcatool.options import DEFAULT_RUN, Debug, Device, Force, Json, Preset, Quiet, RunDir, Settings, full, request

app = typer.Typer()


@app.callback(invoke_without_command=True)
def _prepare_or_verify(
    context: typer.Context,
    verify: Annotated[bool, typer.Option("--verify", help="Check every photo and mask of the run against size and digest.")] = False,
    run: RunDir = DEFAULT_RUN, set_: Settings = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Read a data set, check every file, and start a run. With --verify: check the files of a run's data set again.

    Example: rca prepare --verify --run runs/voc --set data.root=/new/place
    """
    command = context.invoked_subcommand
    given = [context.get_parameter_source(name) for name in ("verify", "run", "set_", "quiet", "as_json")]
    if command and any(source and source.name == "COMMANDLINE" for source in given):
        # They would be lost: the command has its own.
        context.fail(f"--verify takes no data set, and the options of `prepare {command}` come after `{command}`")
    if verify:
        _verify(request(run, set_, False, None, quiet), as_json)
    elif not command:
        context.fail("Missing command.")


@app.command("voc")
def _prepare_voc(
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder with JPEGImages, or the VOCdevkit around it.")],
    train_list: Annotated[str | None, typer.Option(metavar="NAME", help="List of training photos.")] = None,
    val_list: Annotated[str | None, typer.Option(metavar="NAME", help="List of photos to score the network on.")] = None,
    tune_list: Annotated[str | None, typer.Option(metavar="NAME", help="List of photos to choose thresholds on.")] = None,
    test_list: Annotated[str | None, typer.Option(metavar="NAME", help="List of photos to predict only; no tags, no masks.")] = None,
    tags: Annotated[str | None, typer.Option(metavar="FILE", help="Tags: a text file, cls_labels.npy, or `masks`.")] = None,
    sbd: Annotated[Path | None, typer.Option(metavar="DIR", help="Unpacked SBD: make SegmentationClassAug of its masks and VOC's.")] = None,
    sbd_out: Annotated[Path | None, typer.Option(metavar="DIR", help="Make it here, beside links into ROOT, which stays as it is.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Get VOC 2012 and SBD into ROOT first (3.4 GB).")] = False,
    config: Preset = None, run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Pascal VOC, or any data set in its layout.

    Example: rca prepare voc --root VOCdevkit/VOC2012 --sbd benchmark_RELEASE --train-list trainaug --val-list val
    """
    from rcatool import voc_archives

    asked = request(run, set_, force, device, quiet)
    # A name that is no file from here may be one in ROOT.
    places = [path for path in (full(Path(tags)), full(root) / tags) if path.is_file()] if tags and tags != "masks" else []
    ready = voc_archives.make_ready(full(root), asked, sbd=sbd and full(sbd), out=sbd_out and full(sbd_out), download=download)
    options = {"train_list": train_list, "val_list": val_list, "tune_list": tune_list, "test_list": test_list}
    options |= {"root": ready.root, "masks": ready.masks, "tags": str(places[0]) if places else tags}
    prepare("voc", ready.request, config, options, as_json)


@app.command("folder")
def _prepare_folder(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of photos.")],
    tags: Annotated[str, typer.Option(metavar="FILE|folders", help="CSV (image,tags), JSON, or `folders`: DIR/CLASS/photo.jpg.")],
    masks: Annotated[Path | None, typer.Option(metavar="DIR|FILE", help="Mask PNGs or COCO-style JSON, to measure with.")] = None,
    val_fraction: Annotated[float | None, typer.Option(metavar="F", help="Share of the photos held out for val.")] = None,
    tune_fraction: Annotated[float | None, typer.Option(metavar="F", help="Share held out for tune.")] = None,
    config: Preset = None, run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Any folder of photos, with tags from a CSV, JSON or class folders.

    Example: rca prepare folder --images photos --tags tags.csv --config own-photos-cpu
    """
    from rcatool.data.folder import common_root

    root = common_root(full(images), masks and full(masks))
    paths = {"images": below(images, root), "masks": "" if masks is None else below(masks, root)}
    paths["tags"] = tags if tags == "folders" else str(full(Path(tags)))
    options = {"root": root, **paths, "val_fraction": val_fraction, "tune_fraction": tune_fraction}
    prepare("folder", request(run, set_, force, device, quiet), config, options, as_json)


@app.command("shapes")
def _prepare_shapes(
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the images go; default: RUN/shapes.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the generator.")] = None,
    config: Preset = None, run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Generated images of textured objects; a new run takes the settings of the preset `shapes`.

    Example: rca prepare shapes --run runs/shapes --seed 1
    """
    options = {"root": None if root is None else full(root), "shapes_seed": seed}
    prepare("shapes", request(run, set_, force, device, quiet), config, options, as_json)


def prepare(dataset: str, asked: Any, preset: str | None, options: Mapping[str, object], as_json: bool) -> None:
    """Make the manifest and print what is in the data set, also where that was up to date."""
    from rcatool import summary, workflow
    from rcatool.data.census import coverage
    from rcatool.run import Run

    given = [f"data.{name}={value}" for name, value in options.items() if value is not None]
    workflow.prepare(dataset, asked, given, preset)
    document = summary.read_census(Run(asked.run))
    if as_json:
        console.print_result(json.dumps(document, indent=2, ensure_ascii=False))
        return
    console.print_result(summary.census_table(document))
    for line in coverage(document):
        console.print_result(line)


def _verify(asked: Any, as_json: bool) -> None:
    from rcatool import workflow
    from rcatool.stages.verify_data import PROBLEMS

    found = workflow.verify(asked)
    if as_json:
        console.print_result(json.dumps(found.document(), indent=2, ensure_ascii=False))
    elif not found.lines:
        console.print_result(f"{found.photos} photos and {found.masks} masks are what they were")
    if found.lines:
        raise DataError(
            f"{len(found.missing)} files missing, {len(found.changed)} changed, first: {found.lines[0]}",
            f"the complete list is in {asked.run / PROBLEMS}; restore the files, or prepare again with --force",
        )


def below(path: Path, root: Path) -> str:
    """`path` relative to `root`, which is above it."""
    return full(path).relative_to(root).as_posix()
