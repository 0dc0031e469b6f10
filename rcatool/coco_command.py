"""The command `rca prepare coco`; `commands` adds it to the command line."""

from pathlib import Path
from typing import Annotated

import typer

from rcatool.options import DEFAULT_RUN, Debug, Device, Force, Json, Preset, Quiet, RunDir, Settings, full, request
from rcatool.prepare_commands import below, prepare

Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="Folder with train2014, val2014 and annotations.")]
Variant = Annotated[str | None, typer.Option("--variant", metavar="NAME", help="A public rule: coco2voc, coco2voc-border or recam.")]
Overlap = Annotated[str | None, typer.Option("--overlap", metavar="RULE", help="On top: small-over-large or annotation-order (the later).")]
Crowd = Annotated[str | None, typer.Option("--crowd", metavar="RULE", help="Crowds in masks: object, background or ignore.")]
Photos = Annotated[str | None, typer.Option("--photos", metavar="WHICH", help="annotated (those with an annotation) or all.")]
Tune = Annotated[float | None, typer.Option("--tune-fraction", metavar="F", help="Share of the training photos set apart as tune.")]
Masks = Annotated[Path | None, typer.Option("--masks", metavar="DIR", help="Ready masks, instead of making them.")]
MasksOut = Annotated[Path | None, typer.Option("--masks-out", metavar="DIR", help="Where masks are made; default: in ROOT/rcatool-masks.")]


def prepare_coco(
    root: Root, variant: Variant = None, overlap: Overlap = None, crowd: Crowd = None, photos: Photos = None,
    tune_fraction: Tune = None, masks: Masks = None, masks_out: MasksOut = None,
    config: Preset = None, run: RunDir = DEFAULT_RUN, set_: Settings = None, force: Force = False,
    device: Device = None, quiet: Quiet = False, debug: Debug = False, as_json: Json = False,
) -> None:  # fmt: skip
    """COCO 2014, with masks made from its annotations by a rule that is written down.

    Example: rca prepare coco --root coco2014 --variant coco2voc
    """
    from rcatool.data.coco_rule import variant as rule_of
    from rcatool.data.folder import common_root

    rule = rule_of(variant) if variant else None
    base = full(root)
    for folder in (masks, masks_out):  # below data.root, like all files of a run: it may have to be the folder around
        if folder is not None and not full(folder).is_relative_to(base):
            base = common_root(base, full(folder))
    folders = {"images": root, "masks": masks, "coco_masks": masks_out}
    places = {name: "" if path is None or full(path) == base else below(path, base) for name, path in folders.items()}
    options = {"root": base, **places, "coco_photos": photos, "tune_fraction": tune_fraction, "coco_void": rule and rule.void}
    options |= {"coco_overlap": overlap or (rule and rule.overlap), "coco_crowd": crowd or (rule and rule.crowd)}
    prepare("coco", request(run, set_, force, device, quiet), config, options, as_json)
