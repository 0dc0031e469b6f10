"""CAMs in the layouts of other programs: the counterpart of `cam_files`."""

from pathlib import Path

import numpy as np
import torch

from rcatool.cams import cam_size, load_cam, load_full_cam, resize, save_cam
from rcatool.files import atomic_save

IRN_STRIDE = 4  # pixels per cell of the maps that IRN's walk takes
SUFFIXES = {"irn": ".npy", "psa": ".npy", "npz": ".npz"}


def write_cam(source: Path, target: Path, *, size: tuple[int, int], layout: str) -> None:
    """Write the CAM file `source` of a photo of `size` (H, W) as `layout` has it: irn, psa or npz (ours). DataError as `load_cam`.

    irn: {keys: classes from 0, cam: tensor (K, ceil(H / 4), ceil(W / 4)), high_res: (K, H, W)}; psa: {class: (H, W)}; float32.
    """
    keys, cam = load_cam(source, size=size)
    if layout == "npz":
        save_cam(target, keys, cam, size)
        return
    full = load_full_cam(source, size=size)[1]
    if layout == "psa":
        document: object = {int(key): one for key, one in zip(keys, full, strict=True)}
    else:
        strided = torch.from_numpy(resize(cam, *cam_size(*size, IRN_STRIDE)))  # IRN's code sends it to the GPU as it is
        document = {"keys": keys, "cam": strided, "high_res": full}
    atomic_save(target, lambda file: np.save(file, np.array(document, dtype=object)))
