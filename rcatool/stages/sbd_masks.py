"""VOC's own masks and those of SBD's archive -> one folder SegmentationClassAug beside the photos, for all runs.

Beside it lies SegmentationClassAug.json, which says what it was made of and whether it is complete.
"""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rcatool import console
from rcatool.data import sbd
from rcatool.data.manifest import first_few
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.files import atomic_write, read_json, remove_leftovers, write_error
from rcatool.pool import parallel_map

FOLDER = sbd.FOLDER
OFFICIAL = {"VOC": 2_913, "SBD": sbd.OFFICIAL_MASKS}
CHUNK = 16  # masks that a process is sent at a time
RULE = "VOC's own mask where both have one"


def convert(base: Path, archive: Path, *, workers: int) -> int:
    """Make BASE/SegmentationClassAug from BASE/SegmentationClass and SBD's archive; return the number of masks made now.

    Masks that are there and readable are kept. ConfigError for a folder of that name from elsewhere, DataError naming the
    masks that cannot be read, SetupError where BASE cannot be written to.
    """
    folder, record = base / FOLDER, base / f"{FOLDER}.json"
    mats = sbd.find_masks(archive)
    found = sbd.sources(base, mats)
    before = _begun(folder, record)
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    todo = [source for source in found if f"{source.image_id}.png" not in there or before.get("status") != "done"]
    own = sum(source.path.suffix == ".png" for source in found)
    _report_counts(own, sum(name.endswith(".mat") for name in os.listdir(mats)))
    document = {"made by": "rca prepare voc --sbd", "masks": len(found), "of VOC": own, "of SBD": len(found) - own, "rule": RULE}
    if todo:
        _start(folder, record, {"status": "running", **document})
        _make(todo, folder, workers)
        atomic_write(record, json.dumps({"status": "done", **document}, indent=1) + "\n")
    console.log(f"{folder}: {len(found)} masks, {own} of VOC and {len(found) - own} of SBD ({RULE})")
    return len(todo)


def link(base: Path, out: Path) -> Path:
    """Fill the folder `out` with links to what is in `base`, but for its SegmentationClassAug; return its absolute path."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for entry in base.iterdir():
            if not entry.name.startswith(FOLDER) and not os.path.lexists(out / entry.name):
                (out / entry.name).symlink_to(entry)
    except OSError as error:
        raise write_error(out, error) from error
    return out


def _begun(folder: Path, record: Path) -> dict[str, object]:
    """Return what an earlier conversion wrote about the folder."""
    if record.exists():
        document = read_json(record, "what SegmentationClassAug was made of")
        return document if isinstance(document, dict) else {}
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is there, and not made by --sbd", "leave --sbd out to use it as it is, or give --sbd-out DIR")
    return {}


def _report_counts(own: int, mats: int) -> None:
    for name, count in (("VOC", own), ("SBD", mats)):
        if count != OFFICIAL[name]:
            console.warn(f"{name}: {count} masks here, its archive has {OFFICIAL[name]}")


def _start(folder: Path, record: Path, document: dict[str, object]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.glob("*.tmp"))
        atomic_write(record, json.dumps(document, indent=1) + "\n")
    except (OSError, SetupError) as error:
        message = error.message if isinstance(error, SetupError) else write_error(folder, error).message
        raise SetupError(message, "--sbd-out DIR makes the masks in another folder, beside links to these photos") from error


def _make(todo: Sequence[sbd.Source], folder: Path, workers: int) -> None:
    with console.progress("converting masks", len(todo)) as bar:
        made = parallel_map(partial(sbd.make_mask, folder=folder), todo, workers=workers, bar=bar.advance, chunk=CHUNK)
        problems = [problem for problem in made if problem]
    os.sync()
    if problems:
        count = f"{len(problems)} masks cannot be converted" if len(problems) > 1 else "1 mask cannot be converted"
        raise DataError(f"{count}, first: {first_few(problems, 3)}", "unpack the archive again, then run the same command to resume")
