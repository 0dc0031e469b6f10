"""Generated images with tags and masks, in VOC layout: for the demo, the tests, and experiments in minutes.

Each object has a large plain part (body: a faint texture of its class on a colour that says little) and a small striking
part (head: bright colours and a bold pattern of its class). A classifier needs the head only, so a plain CAM finds that only;
the body can be told from look-alikes that are no objects, but it takes features from many images to do so.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from rcatool.data.labels import class_to_mask, write_mask
from rcatool.errors import ConfigError
from rcatool.files import atomic_save, atomic_write, read_json, remove_leftovers
from rcatool.pool import parallel_map

FORMAT = 1  # of the generator: images of another one are made anew
RECORD = "shapes.json"
SPLITS = ("train", "val")
CLASSES = ("ring", "cross", "dots", "bars")  # after the pattern of the head

OBJECTS = (0.35, 0.40, 0.25)  # chances of 1, 2, 3 objects: most images have several, so that a tag does not say where
SAME_CLASS = 0.45  # chance that a further object is of the first one's class: most images have 1 or 2 classes, some 3
LOOK_ALIKES = (0.35, 0.40, 0.25)  # chances of 0, 1, 2 bodies that are no objects: outline alone must not give a class away
CONTEXT = 0.7  # chance that the background is the one of the first object's class: a misleading clue, as water is for boats
LENGTH = (0.17, 0.29)  # half the body's long side, share of the image's side
SLIMNESS = (0.5, 0.8)  # short side over long side
OUTLINE = (1.8, 4.0)  # exponent of the superellipse: from a lemon over an ellipse to a brick; the same for all classes
HEAD = (0.42, 0.55)  # radius of the head over half the body's short side: about an eighth of the object's area
WAVES = 2.6  # periods of the body's texture over half the body's length: about 8 pixels each at 96 pixels
BODY_CONTRAST = 0.14  # strength of the body's texture; noise and light below hide most of a weaker one
BODY_TINT = 0.20  # strength of the class's colour in the body: less, and no map finds it; more, and every map does
BACKGROUND_CONTRAST = 0.14  # strength of the background's pattern
LIGHT = (0.75, 1.2)  # brightness of the whole image
GRADIENT = 0.25  # change of brightness from one side to the other
CAST = 0.06  # change of each colour channel
NOISE = 0.035  # standard deviation of the pixel noise

COLOURS = np.array([[0.95, 0.15, 0.10], [0.98, 0.85, 0.10], [0.90, 0.15, 0.85], [0.10, 0.35, 0.98]])  # heads, by class
ACCENTS = np.array([[1.0, 1.0, 1.0], [0.05, 0.05, 0.05], [0.2, 1.0, 0.9], [1.0, 1.0, 1.0]])  # the pattern on them
GROUNDS = np.array([[0.42, 0.52, 0.56], [0.45, 0.55, 0.38], [0.58, 0.52, 0.42], [0.50, 0.46, 0.54]])  # backgrounds, by class


@dataclass(frozen=True)
class _Pose:
    """Where a body lies: centre and half sides in pixels, angle in radians, exponent of its outline."""

    centre: np.ndarray  # (2,): x, y
    length: float
    width: float
    angle: float
    outline: float


def generate(
    root: Path, counts: Mapping[str, int], *, size: int, seed: int, workers: int = 1, bar: Callable[[int], object] | None = None
) -> int:
    """Write `counts[split]` images of `size` x `size` pixels for train and val below `root`; return how many were made.

    Nothing is made where images of the same settings are there already. ConfigError where `root` holds anything else.
    """
    settings = {"format": FORMAT, "counts": dict(counts), "size": size, "seed": seed}
    items = [(split, index) for split in SPLITS for index in range(counts[split])]
    if _is_there(root, settings, [_id(split, index) for split, index in items]):
        return 0
    atomic_write(root / RECORD, json.dumps({**settings, "done": False}))  # from now on the folder is known to be ours
    remove_leftovers(root.rglob("*.tmp"))
    tags = list(parallel_map(partial(_write, root=root, size=size, seed=seed), items, workers=workers, bar=bar))
    for split in SPLITS:
        ids = [_id(split, index) for index in range(counts[split])]
        atomic_write(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{image_id}\n" for image_id in ids))
    lines = (f"{_id(*item)} {' '.join(CLASSES[c] for c in classes)}\n" for item, classes in zip(items, tags, strict=True))
    atomic_write(root / "tags.txt", "".join(lines))
    atomic_write(root / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    atomic_write(root / RECORD, json.dumps({**settings, "done": True}))
    return len(items)


def _is_there(root: Path, settings: dict[str, object], ids: list[str]) -> bool:
    record = root / RECORD
    if not record.exists():
        # A process that was killed at its first write leaves a temporary file.
        if root.exists() and (not root.is_dir() or any(path.suffix != ".tmp" for path in root.iterdir())):
            raise ConfigError(f"data.root: {root} holds something that was not generated, expected an empty folder or none")
        return False
    if read_json(record, "the settings of the generated images") != {**settings, "done": True}:
        return False
    files = [root / "JPEGImages" / f"{image_id}.jpg" for image_id in ids]
    files += [root / "SegmentationClassAug" / f"{image_id}.png" for image_id in ids]
    return all(file.is_file() for file in files)


def _id(split: str, index: int) -> str:
    return f"{split}_{index:05d}"


def _write(item: tuple[str, int], *, root: Path, size: int, seed: int) -> list[int]:
    """Write one image with its mask; return the classes in it."""
    photo, mask = render(*item, size=size, seed=seed)
    image_id = _id(*item)
    image = Image.fromarray(photo)
    atomic_save(root / "JPEGImages" / f"{image_id}.jpg", lambda file: image.save(file, format="JPEG", quality=95))
    write_mask(root / "SegmentationClassAug" / f"{image_id}.png", mask)
    return [c for c in range(len(CLASSES)) if (mask == class_to_mask(c)).any()]


def render(split: str, index: int, *, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image `index` of a split, uint8 (size, size, 3), and its mask, uint8 (size, size); equal arguments, equal result."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    first = index % len(CLASSES)  # in turn, so that small sets have all classes, too
    classes = [first]
    for _ in range(rng.choice(3, p=OBJECTS)):
        classes.append(first if rng.random() < SAME_CLASS else int(rng.integers(len(CLASSES))))
    look_alikes = int(rng.choice(3, p=LOOK_ALIKES))
    poses = _poses(rng, len(classes) + look_alikes, size)
    context = first if rng.random() < CONTEXT else int(rng.integers(len(CLASSES)))
    image = _background(rng, context, size)
    mask = np.zeros((size, size), np.uint8)
    for pose in poses[len(classes) :]:  # below the objects, which they must not hide
        _paint(image, *_body(rng, pose, None, size))
    for c, pose in zip(classes, poses, strict=False):
        for colours, cover in (_body(rng, pose, c, size), _head(rng, pose, c, size)):
            _paint(image, colours, cover)
            mask[cover > 0.5] = class_to_mask(c)
    return _light(rng, image), mask


def _poses(rng: np.random.Generator, number: int, size: int) -> list[_Pose]:
    """Draw poses, each centre the one of several that is farthest from the earlier ones."""
    poses: list[_Pose] = []
    for _ in range(number):
        length = rng.uniform(*LENGTH) * size
        candidates = rng.uniform(0.7 * length, size - 0.7 * length, (12, 2))  # cut by the border now and then
        if poses:
            centres = np.array([pose.centre for pose in poses])
            distances = np.linalg.norm(candidates[:, None] - centres, axis=2).min(axis=1)  # (12,)
            candidates = candidates[np.argmax(distances)][None]
        width = length * rng.uniform(*SLIMNESS)
        poses.append(_Pose(candidates[0], length, width, rng.uniform(0, 2 * np.pi), rng.uniform(*OUTLINE)))
    return poses


def _frame(centre: np.ndarray, angle: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of all pixels, (size, size) each, along and across a direction from a centre."""
    y, x = np.mgrid[:size, :size] + 0.5
    x, y = x - centre[0], y - centre[1]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _body(rng: np.random.Generator, pose: _Pose, c: int | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return colours (size, size, 3) and cover (size, size) in [0, 1] of a body; of a look-alike if there is no class."""
    along, across = _frame(pose.centre, pose.angle, size)
    ratio = (np.abs(along / pose.length) ** pose.outline + np.abs(across / pose.width) ** pose.outline) ** (1 / pose.outline)
    cover = np.clip(0.5 + (1 - ratio) * pose.width, 0, 1)
    u, v = along / pose.length * WAVES, across / pose.length * WAVES
    colour = rng.uniform(0.3, 0.65) + rng.uniform(-0.06, 0.06, 3)
    if c is None:
        texture = 2 * _smooth(rng, size, 12) - 1
    else:
        colour = (1 - BODY_TINT) * colour + BODY_TINT * COLOURS[c]
        phase = rng.uniform(0, 1)
        waves = (np.hypot(u, v) + phase, u + phase, None, v + phase)[c]  # circles, bands across, a grid of dots, bands along
        texture = np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v) * 1.4 if waves is None else np.sin(2 * np.pi * waves)
    return colour + BODY_CONTRAST * texture[..., None], cover


def _head(rng: np.random.Generator, pose: _Pose, c: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return colours and cover, as of a body, of the head at the body's end."""
    radius = rng.uniform(*HEAD) * pose.width
    direction = np.array([np.cos(pose.angle), np.sin(pose.angle)])
    along, across = _frame(pose.centre + 0.75 * pose.length * direction, pose.angle + rng.uniform(-0.5, 0.5), size)
    s, t = along / radius, across / radius
    distance = np.hypot(s, t)
    accent = (
        np.abs(distance - 0.55) < 0.2,
        np.minimum(np.abs(s), np.abs(t)) < 0.22,
        np.sin(5 * s) * np.sin(5 * t) > 0.3,
        np.sin(7 * t) > 0.2,
    )[c]
    return np.where(accent[..., None], ACCENTS[c], COLOURS[c]), np.clip(0.5 + (1 - distance) * radius, 0, 1)


def _background(rng: np.random.Generator, context: int, size: int) -> np.ndarray:
    """Return a textured background (size, size, 3) of one of the four kinds."""
    along, across = _frame(np.array([0.0, 0.0]), rng.uniform(-0.3, 0.3), size)
    bend = 3 * _smooth(rng, size, 5)
    x, y = along / size * 2 * np.pi, across / size * 2 * np.pi
    pattern = (
        np.sin(7 * y + 2 * bend),  # waves
        np.sign(_smooth(rng, size, 14) - 0.5),  # patches
        np.sin(9 * (x + y) + bend),  # slanting furrows
        np.maximum(np.sin(8 * x + bend), np.sin(8 * y + bend)),  # a net
    )[context]
    colour: np.ndarray = GROUNDS[context] + rng.uniform(-0.08, 0.08, 3)
    patches = 0.2 * (_smooth(rng, size, 4) - 0.5)
    return colour + (BACKGROUND_CONTRAST * pattern + patches)[..., None]


def _smooth(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return noise in about [0, 1], (size, size), without detail finer than a cell."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _paint(image: np.ndarray, colours: np.ndarray, cover: np.ndarray) -> None:
    image += cover[..., None] * (colours - image)


def _light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the image under a random light, with noise, as uint8."""
    size = len(image)
    along, _ = _frame(np.array([size / 2, size / 2]), rng.uniform(0, 2 * np.pi), size)
    light = rng.uniform(*LIGHT) * (1 + rng.uniform(0, GRADIENT) * along / size)
    lit = image * light[..., None] * (1 + rng.uniform(-CAST, CAST, 3)) + rng.normal(0, NOISE, image.shape)
    return np.asarray(np.clip(np.rint(lit * 255), 0, 255), np.uint8)
