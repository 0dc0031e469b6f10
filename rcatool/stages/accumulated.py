"""The maps that training kept of its photos (cls.accumulate), as CAM files (cam.maps: accumulated)."""

from collections.abc import Sequence
from pathlib import Path

from rcatool import console
from rcatool.cams import cam_size, normalise, resize, save_cam
from rcatool.checkpoint import load_state
from rcatool.config import Config
from rcatool.data.manifest import Sample, split
from rcatool.errors import ConfigError, DataError
from rcatool.models.accumulator import AttentionAccumulator
from rcatool.run import Run
from rcatool.stages.networks import read_data, tag_matrix

ACCUMULATED = "accumulated.pt"


def make_accumulator(config: Config, train: Sequence[Sample], num_classes: int) -> AttentionAccumulator | None:
    """An empty accumulator for the training photos, if the settings ask for one."""
    if config.cls.accumulate == "none":
        return None
    return AttentionAccumulator(tag_matrix(train, num_classes), [sample.size for sample in train], stride=config.cls.accumulate_stride)


def check_source(config: Config) -> None:
    """Raise ConfigError where CAMs are to be what training kept, and it keeps nothing."""
    if config.cam.maps == "accumulated" and config.cls.accumulate == "none":
        raise ConfigError("cam.maps: accumulated, but training keeps no maps", "--set cls.accumulate=confidence, then rca train-cls")


def export_accumulated(run: Run, config: Config, folder: Path) -> None:
    """Write a CAM file for every training photo whose tags all have a kept map, from train-cls/accumulated.pt.

    Files that are there are left. Photos with a tag that no map was kept of are for the network to do.
    """
    check_source(config)
    classes, samples = read_data(run)
    train = split(samples, "train")
    accumulator = make_accumulator(config, train, classes.num_classes)
    assert accumulator is not None
    path = run.dir("train-cls") / ACCUMULATED
    try:
        accumulator.load_state_dict(load_state(path))
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: does not fit the training photos", "rca train-cls --force") from error
    empty = int((~accumulator.seen).sum())
    if empty:
        console.log(f"make-pseudo: no map was kept for {empty} of {len(accumulator.seen)} tags of photos; the network makes those photos'")
    for number, sample in enumerate(train):
        target = folder / f"{sample.id}.npz"
        keys, kept = accumulator.photo_cam(number)
        if len(keys) and kept.any(axis=(1, 2)).all() and not target.exists():
            save_cam(target, keys, normalise(resize(kept, *cam_size(*sample.size, config.cam.stride))), sample.size)
