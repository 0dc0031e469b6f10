"""CAMs as arrays and as files: normalise, resize, save, load. (Merging scales happens on the device, in `cam_inference`.)"""

from pathlib import Path

import numpy as np
from PIL import Image

from rcatool.data.labels import MAX_CLASSES
from rcatool.data.npz import BROKEN, read_npz
from rcatool.errors import DataError
from rcatool.files import atomic_save


def cam_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Size of a stored CAM: ceil(H / stride), ceil(W / stride)."""
    return -(-height // stride), -(-width // stride)


def normalise(cam: np.ndarray) -> np.ndarray:
    """Divide each map of cam (K, h, w) >= 0 by its maximum; a map without a positive value stays zero."""
    peak = cam.max(axis=(1, 2), keepdims=True)
    out: np.ndarray = np.divide(cam, peak, out=np.zeros_like(cam), where=peak > 0)
    return out


def resize(cam: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of (K, h, w) float32 maps to (K, height, width), pixel centres aligned (as align_corners=False)."""
    if cam.shape[1:] == (height, width):
        return cam
    size = (width, height)
    maps = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)) for one in cam.astype(np.float32)]
    return np.stack(maps) if maps else np.zeros((0, height, width), np.float32)


def save_cam(path: Path, keys: np.ndarray, cam: np.ndarray, size: tuple[int, int]) -> None:
    """Write keys (K,) classes in ascending order, cam (K, h, w) in [0, 1] and the photo's size (H, W) as npz, half precision."""
    arrays = {"keys": keys.astype(np.uint16), "cam": cam.astype(np.float16), "size": np.asarray(size, np.int32)}
    atomic_save(path, lambda file: np.savez(file, allow_pickle=False, **arrays))  # type: ignore[arg-type]


def load_cam(path: Path, *, size: tuple[int, int], num_classes: int = MAX_CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Read a CAM file: keys (K,) int64 in [0, num_classes) and cam (K, h, w) float32.

    Raises `DataError` naming the file if it is missing, broken, not finite, out of [0, 1], of other classes or of a photo
    of another size.
    """
    try:
        arrays = read_npz(path)
        keys, cam, stored = arrays["keys"], arrays["cam"], arrays["size"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such CAM file", hint="rca make-pseudo makes what is missing") from error
    except BROKEN as error:
        raise DataError(f"{path}: not a readable CAM file ({error})", hint="delete it, then rca make-pseudo makes it again") from error
    problem = _problem(keys, cam, stored, size=size, num_classes=num_classes)
    if problem:
        raise DataError(f"{path}: {problem}", hint="delete it, then rca make-pseudo makes it again")
    return keys.astype(np.int64), cam.astype(np.float32)


def load_full_cam(path: Path, *, size: tuple[int, int], num_classes: int = MAX_CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Read a CAM file at its photo's size (H, W): keys (K,) int64 and maps (K, H, W) float32 in [0, 1], maximum 1 again."""
    keys, cam = load_cam(path, size=size, num_classes=num_classes)
    return keys, np.clip(normalise(resize(cam, *size)), 0, 1)


def _problem(keys: np.ndarray, cam: np.ndarray, stored: np.ndarray, *, size: tuple[int, int], num_classes: int) -> str | None:
    """What is wrong with the arrays of a CAM file, if anything is."""
    if stored.shape != (2,) or keys.ndim != 1 or keys.dtype.kind not in "ui" or cam.ndim != 3 or cam.dtype.kind != "f":
        return "arrays of the wrong shape or type"
    if tuple(stored.tolist()) != size:
        return f"made for a photo of {stored[0]}x{stored[1]}, expected {size[0]}x{size[1]}"
    if len(keys) != len(cam) or bool((np.diff(keys.astype(np.int64)) <= 0).any()) or 0 in cam.shape[1:]:
        return "keys and maps do not belong together"
    if len(keys) and not 0 <= int(keys[0]) <= int(keys[-1]) < num_classes:
        return f"maps of the classes {keys.tolist()}, expected numbers below {num_classes}"
    if not bool(np.isfinite(cam).all()) or (cam.size and (float(cam.min()) < 0 or float(cam.max()) > 1)):
        return "values that are not in [0, 1]"
    return None
