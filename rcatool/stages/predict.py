"""Label maps of a person's own photos: OUT/<name>.png, OUT/overlays/<name>.jpg, and OUT/predictions.json, which says what is in them.

No step of a run: it reads the trained network, from a run or a file, and never a tag. What OUT has of the same network and settings
is kept.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcatool import __version__, console
from rcatool.data.labels import read_mask, write_mask
from rcatool.data.photos import read_image
from rcatool.errors import ConfigError, DataError, SetupError
from rcatool.files import atomic_write, read_json, remove_leftovers, sha256_file
from rcatool.network_file import Network
from rcatool.photo_inputs import PhotoInput, check_outputs
from rcatool.pool import in_background
from rcatool.segmenter import Scale, Segmentation, Segmenter
from rcatool.stages.photo_batches import waiting_writes
from rcatool.tiling import Tiling

FORMAT = 1
_SAVE_EVERY = 10.0  # seconds between two writings of predictions.json: what a power cut may cost


@dataclass(frozen=True)
class Plan:
    """What to predict, how, and where the results go; `model` is the network's name for people."""

    photos: list[PhotoInput]
    out: Path
    model: str
    scale: Scale = "auto"
    tiling: Tiling = Tiling()
    flip: bool = False
    crf: bool = False
    overlay: bool = True
    force: bool = False

    def mask(self, photo: PhotoInput) -> Path:
        """Where a photo's mask goes."""
        return self.out / f"{photo.name}.png"

    def picture(self, photo: PhotoInput) -> Path:
        """Where a photo's overlay goes."""
        return self.out / "overlays" / f"{photo.name}.jpg"


def main(network: Network, plan: Plan, *, device: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """Predict, and return what predictions.json says.

    A photo that cannot be read is named in it under `failed`, and the others are finished. Raises ConfigError where OUT holds
    predictions of another network or other settings (unless forced), or a result would overwrite a photo.
    """
    check_outputs(plan.photos, [path(photo) for photo in plan.photos for path in (plan.mask, plan.picture)])
    segmenter = Segmenter(network, device=device, precision=precision, tiling=plan.tiling, flip=plan.flip, crf=plan.crf)
    segmenter.check_scale(plan.scale)  # before the book, which would keep settings that cannot be
    book = _Book(network, plan)
    console.log(f"predict: {len(plan.photos)} photos, {network.card.design.backbone} on {segmenter.world.device}")
    try:
        with console.progress("predict", total=len(plan.photos)) as bar, in_background(waiting_writes(segmenter.world)) as later:
            waiting = _Waiting(plan, book, bar, later)
            for found in segmenter.many(waiting.photos(), scale=plan.scale, advance=waiting.tiles):
                waiting.done(found)
                book.save(after=_SAVE_EVERY)
    finally:
        book.save()
    return book.document


class _Book:
    """predictions.json: what was found earlier and still holds, and what is found now."""

    def __init__(self, network: Network, plan: Plan) -> None:
        self.path, self.card = plan.out / "predictions.json", network.card
        settings = {"scale": plan.scale, **asdict(plan.tiling)}
        settings |= {name: True for name in ("flip", "crf") if getattr(plan, name)}  # only these: earlier versions had neither
        model = {"name": plan.model, "digest": network.digest, "origin": network.card.origin, "backbone": network.card.design.backbone}
        self.document: dict[str, Any] = {
            "format": FORMAT, "version": __version__, "model": model, "settings": settings, "classes": list(network.card.labels),
            "photos": {}, "failed": {},
        }  # fmt: skip
        if self.path.exists() and not plan.force:
            self._go_on(read_json(self.path, "the predictions made earlier"))
        remove_leftovers(self.path.parent.rglob("*.tmp"))
        self._saved = time.monotonic()
        self._busy = threading.Lock()

    def _go_on(self, before: Any) -> None:
        parts = ("model", "settings", "photos")
        if not isinstance(before, dict) or not all(isinstance(before.get(part), dict) for part in parts) or before.get("format") != FORMAT:
            raise DataError(f"{self.path}: not what rca predict writes", "choose another --out, or add --force")
        digests = [found["model"].get("digest") for found in (before, self.document)]
        if digests[0] != digests[1]:
            what = f"another network ({before['model'].get('name')})"
        elif before["settings"] != self.document["settings"]:
            what = f"other settings ({', '.join(f'{name} {value}' for name, value in before['settings'].items())})"
        else:
            self.document["photos"] = before["photos"]
            return
        raise ConfigError(f"--out: {self.path.parent} has predictions of {what}", "choose another folder, or add --force to make them anew")

    def add(self, name: str, record: dict[str, Any]) -> None:
        """Say what is in a photo, whose files are written."""
        with self._busy:
            self.document["photos"][name] = record

    def save(self, *, after: float = 0.0) -> None:
        """Write the file, unless it was written less than `after` seconds ago."""
        if time.monotonic() - self._saved >= after:
            with self._busy:
                self.document["photos"] = dict(sorted(self.document["photos"].items()))
                text = json.dumps(self.document, indent=1) + "\n"
            atomic_write(self.path, text)
            self._saved = time.monotonic()


class _Waiting:
    """The photos on their way through the network, in order."""

    def __init__(self, plan: Plan, book: _Book, bar: console.Bar, later: Callable[[Callable[[], object]], None]) -> None:
        self.plan, self.book, self.bar, self._later = plan, book, bar, later
        self._queue: deque[tuple[PhotoInput, str]] = deque()
        self._clock = time.monotonic()

    def photos(self) -> Iterator[np.ndarray]:
        """The photos that are to go through the network, read one by one; those that are done, or cannot be read, are dealt with here."""
        for photo in self.plan.photos:
            if not self._queue:
                self._clock = time.monotonic()
            try:
                digest = sha256_file(photo.path)
                if self._is_done(photo, digest):
                    self.bar.advance(1)
                    continue
                image = read_image(photo.path)
            except (DataError, SetupError) as error:  # SetupError: the library for HEIC
                self._failed(photo, error)
                continue
            self._queue.append((photo, digest))
            yield image

    def tiles(self, done: int, total: int) -> None:
        """Say how far a large photo is."""
        if total > 1 and self._queue:
            self.bar.advance(0, note=f"{self._queue[0][0].name}: tile {done} of {total}")

    def done(self, found: Segmentation) -> None:
        """Write what was found in the next photo: now, or on a GPU while it goes on."""
        photo, digest = self._queue.popleft()
        self._later(partial(self._write, photo, digest, found, self._clock))
        self._clock = time.monotonic()
        self.bar.advance(1)

    def _write(self, photo: PhotoInput, digest: str, found: Segmentation, start: float) -> None:
        write_mask(self.plan.mask(photo), found.mask)
        if self.plan.overlay:
            _write_picture(self.plan.picture(photo), found.overlay())
        pixels = {name: count for name, count in found.pixels().items() if count}
        record = {
            "photo": str(photo.path), "sha256": digest, "size": list(found.mask.shape), "network_size": list(found.network_size),
            "scale": round(found.network_size[0] / found.mask.shape[0], 4), "seconds": round(time.monotonic() - start, 3),
            "classes": {name: {"pixels": n, "share": round(n / found.mask.size, 6)} for name, n in pixels.items()},
        }  # fmt: skip
        self.book.add(photo.name, record)  # not before its files are there

    def _is_done(self, photo: PhotoInput, digest: str) -> bool:
        """Whether the photo's results are there; an overlay that lacks is drawn."""
        record = self.book.document["photos"].get(photo.name)
        mask = self.plan.mask(photo)
        if not isinstance(record, dict) or record.get("sha256") != digest or not mask.exists():
            return False
        picture = self.plan.picture(photo)
        if self.plan.overlay and not picture.exists():
            card = self.book.card
            try:
                drawn = read_mask(mask, num_classes=card.classes.num_classes)
            except DataError:  # not what was written
                return False
            image = read_image(photo.path)
            if image.shape[:2] != drawn.shape:
                return False
            _write_picture(picture, Segmentation(drawn, card.labels, card.palette, drawn.shape, photo=image).overlay())
        return True

    def _failed(self, photo: PhotoInput, error: DataError | SetupError) -> None:
        console.warn(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
        self.book.document["failed"][photo.name] = error.message
        self.book.document["photos"].pop(photo.name, None)
        self.bar.advance(1)


def _write_picture(path: Path, picture: Image.Image) -> None:
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    atomic_write(path, buffer.getvalue())
