"""The trained segmentation network of a run as ONNX, compared with torch on photos of the run. No step of a run."""

from pathlib import Path

from rcatool import onnx_file
from rcatool.config import Config
from rcatool.data.manifest import split
from rcatool.data.photos import read_image
from rcatool.errors import DataError
from rcatool.network_file import read_run
from rcatool.onnx_file import Compared
from rcatool.run import Run
from rcatool.stages.networks import read_data
from rcatool.steps import last_network

_SPLITS = ("val", "tune", "test", "train")  # where photos to compare on are looked for first


def main(run: Run, config: Config) -> tuple[bytes, list[Compared]]:
    """The ONNX file and the differences found; SetupError where they are too large, or a library is missing."""
    network = read_run(run.root, step=last_network(config))
    _, samples = read_data(run)
    names = [sample.image for part in _SPLITS for sample in split(samples, part)][: len(onnx_file.CHECKED_SCALES)]
    if not names:
        raise DataError(f"{run.root}: the run has no photo to compare on")
    data = onnx_file.onnx_bytes(network)
    found = onnx_file.compare(network, data, [read_image(Path(config.data.root) / name) for name in names])
    onnx_file.check(found)
    return data, found
