"""The command `rca convert-weights`; `commands` adds it to the command line."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rcatool import console
from rcatool.options import Debug, Json

Source = Annotated[Path, typer.Argument(metavar="IN", help="Weights of ResNet-38 (MXNet .params, PyTorch .pth) or VGG16 (Caffe names).")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .safetensors or .pth.")]


def convert_weights(source: Source, target: Target, debug: Debug = False, as_json: Json = False) -> None:
    """Turn a weight file that the field passes around into one for cls.weights.

    Example: rca convert-weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params resnet38.safetensors
    """
    from rcatool.models.convert_weights import convert_file

    converted = convert_file(source, target)
    numbers = sum(value.numel() for value in converted.state.values())
    if as_json:
        about = {"file": str(target), "backbone": converted.backbone, "tensors": len(converted.state), "numbers": numbers}
        console.print_result(json.dumps(about | {"left_out": list(converted.left_out)}, indent=2))
        return
    console.print_result(f"{target}: {converted.backbone}, {len(converted.state)} tensors, {numbers:,} numbers")
    if converted.left_out:
        console.print_result(f"left out: {', '.join(converted.left_out)}")
    console.print_result(f"use it: --set cls.backbone={converted.backbone} --set cls.weights={target.absolute()}")
