"""What `rca predict` takes and how exact its shortcuts are: one JSON document.

    python benchmarks/predict.py --voc DIR [--model FILE | --weights FILE] [--photos 24] [--out FILE.json]

- peak memory of a process that predicts one photo of 6000 x 4000 pixels, at --scale auto and at --scale original, in seconds and MiB;
- photos per second on this CPU, reading and writing included;
- pixels of photos of 1500 x 1000 that are the same in tiles and in one piece, for a network whose field of view (63 pixels) is no
  larger than the overlap, and for the network itself, whose field of view is larger than a tile;
- the largest difference of logits between torch and onnxruntime.

Photos are those of VOC, enlarged where need be. The network is that of --model, else mobilenet_v2 with the --weights (a state dict; none:
random) under a random head: what it sees is noise, what it costs is not. Times are by the clock: the load of the machine is in the report.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["memory", "rate", "tiles", "onnx"], nargs="+", default=["memory", "rate", "tiles", "onnx"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child)
        return
    jpegs = sorted((options.voc / "JPEGImages").glob("*.jpg"))
    chosen = jpegs[:: max(1, len(jpegs) // options.photos)][: options.photos]
    found: dict[str, Any] = {"load_average": os.getloadavg(), "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or _model(folder / "model.safetensors", options.weights)
        found["model"] = str(options.model or f"mobilenet_v2, stride 16, 21 labels, weights {Path(options.weights).name}")
        measures = {
            "memory": lambda: _memory(folder, model, chosen[0]), "rate": lambda: _rate(folder, model, chosen),
            "tiles": lambda: _tiles(model, chosen), "onnx": lambda: _onnx(model, chosen),
        }  # fmt: skip
        for part in options.only:
            found[part] = measures[part]()
            print(json.dumps({part: found[part]}), file=sys.stderr, flush=True)
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def _memory(folder: Path, model: Path, photo: Path) -> list[dict[str, Any]]:
    large = folder / "large.jpg"
    with Image.open(photo) as image:
        image.convert("RGB").resize((6000, 4000), Image.Resampling.BICUBIC).save(large, quality=90)
    rows = []
    for scale, tile in (("auto", 1024), ("original", 1024)):
        line = ["predict", large, "--model", model, "--scale", scale, "--tile", tile, "--out", folder / f"large-{scale}-{tile}"]
        rows.append({"photo": "6000 x 4000", "scale": scale, "tile": tile, **_run(line)})
    return rows


def _rate(folder: Path, model: Path, photos: list[Path]) -> dict[str, Any]:
    (folder / "photos").mkdir()
    for photo in photos:
        (folder / "photos" / photo.name).symlink_to(photo)
    done = _run(["predict", folder / "photos", "--model", model, "--out", folder / "rate"])
    record = json.loads((folder / "rate" / "predictions.json").read_text())["photos"].values()
    seconds = sorted(photo["seconds"] for photo in record)[: -max(1, len(photos) // 10)]  # the first warms up
    return {"photos": len(photos), "photos_per_second": round(len(seconds) / sum(seconds), 2), **done}


def _tiles(model: Path, photos: list[Path]) -> list[dict[str, Any]]:
    from rcatool.network_file import read_network
    from rcatool.segmenter import Segmenter
    from rcatool.tiling import Tiling

    rows = []
    enlarged = [Image.open(photo).convert("RGB").resize((1500, 1000), Image.Resampling.BICUBIC) for photo in photos[:3]]
    for name, network, tilings in (
        ("tiny, field of view 63", _network("tiny", 8, (1, 2), "none"), [(256, 64), (512, 64)]),
        ("the model", read_network(model), [(512, 128), (1024, 256)]),
    ):
        whole = [Segmenter(network, device="cpu", tiling=Tiling(1536, 64))(photo, scale="original").mask for photo in enlarged]
        for sizes in tilings:
            tiled = Segmenter(network, device="cpu", tiling=Tiling(*sizes))
            same = [float(np.mean(tiled(photo, scale="original").mask == mask)) for photo, mask in zip(enlarged, whole, strict=True)]
            rows.append({"network": name, "tile": sizes[0], "overlap": sizes[1], "photos": len(same), "same_pixels": np.mean(same).item(),
                         "least": min(same), "classes_seen": [len(np.unique(mask)) for mask in whole]})  # fmt: skip
    return rows


def _onnx(model: Path, photos: list[Path]) -> list[dict[str, Any]]:
    from rcatool.data.photos import read_image
    from rcatool.network_file import read_network
    from rcatool.onnx_file import compare, onnx_bytes

    network = read_network(model)
    found = compare(network, onnx_bytes(network), [read_image(photo) for photo in photos[:3]])
    return [{"images": list(one.shape), "largest_difference": one.difference} for one in found]


def _model(path: Path, weights: str) -> Path:
    subprocess.run([sys.executable, __file__, "--voc", ".", "--child", json.dumps(["model", str(path), weights])], check=True)
    return path


def _run(line: list[Any]) -> dict[str, Any]:
    """Run a command in a process of its own: its seconds, and the most memory it took."""
    words = [sys.executable, __file__, "--voc", ".", "--child", json.dumps(["run", *map(str, line)])]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _child(text: str) -> None:
    import time

    from rcatool.cli import main as rca
    from rcatool.network_file import write_network
    from rcatool.results import peak_memory_mib

    task, *words = json.loads(text)
    if task == "model":
        write_network(Path(words[0]), _network("mobilenet_v2", 16, (6, 12, 18, 24), words[1]))
        return
    start = time.monotonic()
    assert rca([*words, "--device", "cpu", "--force"]) == 0
    print(json.dumps({"seconds": round(time.monotonic() - start, 1), "peak_mib": peak_memory_mib()}))


def _network(backbone: str, stride: int, rates: tuple[int, ...], weights: str) -> Any:
    from dataclasses import asdict

    import torch

    from rcatool.data.labels import VOC_CLASSES
    from rcatool.models.deeplab import SegDesign, build_seg
    from rcatool.models.weights import load_weights
    from rcatool.network_card import own_fields, read_card
    from rcatool.network_file import assemble

    torch.manual_seed(0)
    design = SegDesign(backbone, stride, rates)
    model = build_seg(design, len(VOC_CLASSES))
    if weights != "none":
        load_weights(model.backbone, backbone, weights)
    for parameter in model.heads():
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=0.3 if backbone == "tiny" else 0.03)
    told = {"classes": list(VOC_CLASSES), "design": asdict(design), "origin": "benchmark", "long_side": 500}
    return assemble(read_card(own_fields(len(VOC_CLASSES) + 1) | told, backbone), model.state_dict(), backbone)


if __name__ == "__main__":
    main()
