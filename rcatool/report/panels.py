"""One photo as the steps of a run saw it: photo, CAM, labels, prediction, truth; whatever of it lies in the run directory."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from rcatool import cams
from rcatool.config import Config
from rcatool.data.labels import IGNORE, ClassInfo, class_to_mask, palette, read_classes, read_mask
from rcatool.data.manifest import Sample, read_manifest
from rcatool.data.photos import read_image
from rcatool.metrics import confusion_matrix, scores
from rcatool.overlay import tinted
from rcatool.run import Run
from rcatool.steps import STEPS

# What a panel shows -> its title, the folder in the run, and the step that makes it, in the order of the pipeline.
MADE = {
    "cam": ("CAM", "make-pseudo/cams", "make-pseudo/cams"),
    "refined": ("refined CAM", "make-pseudo/refined", "make-pseudo/refined"),
    "pseudo": ("pseudo label", "make-pseudo/labels", "make-pseudo/labels"),
    "seg_1": ("prediction of round 1", "eval/predictions-1", "eval"),
    "pseudo_2": ("label of round 2", "make-pseudo/round-2", "make-pseudo/round-2"),
    "seg": ("prediction", "eval/predictions", "eval"),
}
MAPS = ("cam", "refined")
# Colours of CAM values 0, 1/4 ... 1, from dark and cold to light and warm; lightness rises steadily, so that grey prints agree.
HEAT = np.array([(14, 16, 60), (88, 40, 130), (190, 62, 98), (245, 140, 50), (255, 240, 150)], np.float32)
JPEG_QUALITY = 80
SMALLEST_SHARE = 0.001  # of a photo's pixels: less is not named
LARGE_SHARE = 0.1  # of a photo's pixels without a label: less, such as the ring around each object, is not in the legend
SMALLEST = 200  # pixels of the long side: smaller photos are enlarged
LIFT = 0.5  # power that label colours are lifted by: VOC's are too dark to be told apart on a photo


@dataclass(frozen=True)
class Album:
    """The photos of a run and where its files are; masks are opened only with `truth`."""

    run: Run
    root: Path
    classes: ClassInfo
    samples: Mapping[str, Sample]
    truth: bool = True

    @property
    def labels(self) -> tuple[str, ...]:
        """The names by mask value."""
        return ("background", *self.classes.names)


@dataclass(frozen=True)
class Panel:
    """A picture of a photo's strip: `words` say in a line what it shows; `present` are mask values, the largest first.

    `miou` is that of the label map against the truth, None without one.
    """

    title: str
    image: Image.Image
    words: str
    present: tuple[int, ...] = ()
    miou: float | None = None


def open_album(run: Run, config: Config, *, truth: bool = True) -> Album:
    """The photos of a prepared run. Raises DataError where the manifest or the class names are missing or broken."""
    folder = run.dir("prepare")
    classes = read_classes(folder / "classes.json")
    samples = read_manifest(folder / "manifest.jsonl", num_classes=classes.num_classes)
    return Album(run, Path(config.data.root), classes, {sample.id: sample for sample in samples}, truth)


def draw_panels(
    album: Album, sample: Sample, *, long_side: int, smallest: int = SMALLEST, extra: Mapping[str, np.ndarray] | None = None
) -> list[Panel]:
    """The panels that there are of a photo, `long_side` pixels long (a smaller one: `smallest`). DataError for an unreadable file.

    `extra` are label maps (H, W) uint8 by kind that are shown as if they were in the run.
    """
    pixels, extra = read_image(album.root / sample.image), extra or {}
    scale = min(long_side, max(smallest, *sample.size)) / max(sample.size)
    size = (max(1, round(sample.size[1] * scale)), max(1, round(sample.size[0] * scale)))
    photo = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
    truth = _read(album, sample, album.root / sample.mask) if album.truth and sample.mask is not None else None
    tags = ", ".join(album.classes.names[cls] for cls in sample.classes) or "none"
    found = [Panel("photo", Image.fromarray(photo), f"tags: {tags}", tuple(class_to_mask(cls) for cls in sample.classes))]
    for kind, (title, folder, _) in MADE.items():
        path = album.run.root / folder / f"{sample.id}{'.npz' if kind in MAPS else '.png'}"
        if kind in extra:
            found.append(_label_panel(album, extra[kind], title, photo, truth))
        elif path.is_file():
            is_map = kind in MAPS
            found.append(
                _map_panel(album, sample, path, kind, photo) if is_map
                else _label_panel(album, _read(album, sample, path), title, photo, truth)
            )  # fmt: skip
    return found if truth is None else [*found, _label_panel(album, truth, "truth", photo, None)]


def _read(album: Album, sample: Sample, path: Path) -> np.ndarray:
    return read_mask(path, num_classes=album.classes.num_classes, size=sample.size)


def missing_panels(album: Album, sample: Sample) -> dict[str, str]:
    """Title -> the command that makes it, of the panels that a photo of this split should have and that are not there."""
    kinds = ("cam", "pseudo") if sample.split == "train" else ("seg",) if sample.split in ("val", "test") else ("cam", "pseudo", "seg")
    found = {}
    for kind in kinds:
        title, folder, step = MADE[kind]
        if not (album.run.root / folder / f"{sample.id}{'.npz' if kind in MAPS else '.png'}").is_file():
            found[title] = STEPS[step].command(album.run.root)
    return found


def _map_panel(album: Album, sample: Sample, path: Path, kind: str, photo: np.ndarray) -> Panel:
    keys, maps = cams.load_cam(path, size=sample.size, num_classes=album.classes.num_classes)
    height, width = photo.shape[:2]
    best = cams.resize(maps, height, width).max(axis=0, initial=0.0)
    names = ", ".join(album.classes.names[key] for key in keys.tolist()) or "no class"
    present = tuple(class_to_mask(key) for key in keys.tolist())
    words = f"map of {names}{'' if best.any() else ', zero everywhere'}"
    return Panel(MADE[kind][0], Image.fromarray(heated(photo, best)), words, present)


def _label_panel(album: Album, mask: np.ndarray, title: str, photo: np.ndarray, truth: np.ndarray | None) -> Panel:
    height, width = photo.shape[:2]
    small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    counts = np.bincount(mask.reshape(-1), minlength=256)
    order = [value for value in np.argsort(-counts, kind="stable").tolist() if counts[value] >= SMALLEST_SHARE * mask.size]
    shares = [f"{name_of(album, value)} {100 * counts[value] / mask.size:.0f} %" for value in order]
    shown = {*range(1, len(album.labels)), *((IGNORE,) if counts[IGNORE] > LARGE_SHARE * mask.size else ())}
    present = tuple(value for value in order if value in shown)
    miou = None if truth is None else scores(confusion_matrix(truth, mask, len(album.labels))).miou
    known = None if miou is None or math.isnan(miou) else miou
    return Panel(title, Image.fromarray(tinted(photo, small, colours())), ", ".join(shares), present, known)


def name_of(album: Album, value: int) -> str:
    """The name of a mask value."""
    return album.labels[value] if value < len(album.labels) else "no label"


@cache
def colours() -> list[tuple[int, int, int]]:
    """The colour that each mask value 0..255 is shown in: that of the label files, lifted by LIFT."""
    flat = [round(255 * (value / 255) ** LIFT) for value in palette()]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]


def heated(photo: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A photo uint8 (H, W, 3) in grey with a map (H, W) in [0, 1] glowing on it, the more the higher."""
    grey = photo.astype(np.float32).mean(axis=2, keepdims=True)
    place = values.clip(0, 1) * (len(HEAT) - 1)
    low = np.minimum(place.astype(np.int64), len(HEAT) - 2)
    part = (place - low)[..., None]
    glow = HEAT[low] * (1 - part) + HEAT[low + 1] * part
    cover = 0.25 + 0.6 * values.clip(0, 1)[..., None]
    return np.asarray(grey * (1 - cover) + glow * cover).clip(0, 255).astype(np.uint8)


def data_uri(image: Image.Image, quality: int = JPEG_QUALITY) -> str:
    """A picture as JPEG in the address of an <img>."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def present_in(panels: Sequence[Panel]) -> list[int]:
    """The mask values that any panel shows, in ascending order."""
    return sorted({value for panel in panels for value in panel.present})
