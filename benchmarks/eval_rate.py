"""How fast masks are scored on one core, beside decoding them, which no evaluator can do without: one line of JSON.

    python benchmarks/eval_rate.py [--masks DIR] [--count 200] [--repeat 3]

DIR holds VOC-like palette PNGs (SegmentationClassAug); without it, blobs of 21 labels are drawn. Everything is cropped or padded to
500 x 375 and written to a temporary folder, so that one number is of one size. Predictions are the masks shifted by three pixels.
Times are of the process, so that a busy machine counts less; the best of `repeat` passes is reported, after one to warm up.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from rcatool.data.labels import read_mask, write_mask
from rcatool.mask_score import score
from rcatool.scoring import ScoreJob, score_masks

SHAPE = (375, 500)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truths, predictions = Path(folder, "gt"), Path(folder, "pred")
        for number, mask in enumerate(_masks(options.masks, options.count)):
            write_mask(truths / f"{number:05d}.png", mask)
            write_mask(predictions / f"{number:05d}.png", np.roll(mask, 3, axis=1))
        names = sorted(path.name for path in truths.iterdir())
        jobs = [ScoreJob(name, predictions / name, truths / name, None, 20) for name in names]
        work: dict[str, Callable[[ScoreJob], object]] = {
            "decode_pillow": _decode_pillow,
            "decode": _decode,
            "score": partial(score_masks, boundary=False),
            "score_boundary": partial(score_masks, boundary=True),
        }
        rates = {name: round(_rate(function, jobs, options.repeat), 1) for name, function in work.items()}
        start = time.process_time()
        found = score(predictions, truths)
        whole = len(jobs) / (time.process_time() - start)
    print(json.dumps({
        "size": "500x375", "masks": len(jobs), "source": str(options.masks or "drawn"), "unit": "pairs of masks per second and core",
        **rates, "rca_score_with_intervals": round(whole, 1), "share_of_decoding": round(rates["score"] / rates["decode"], 3),
        "miou": found.miou,
    }))  # fmt: skip


def _masks(folder: Path | None, count: int) -> list[np.ndarray]:
    if folder is not None:
        paths = sorted(folder.glob("*.png"))[:count]
        return [_fit(read_mask(path, num_classes=254)) for path in paths]
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 21, (count, 8, 10)).astype(np.uint8)
    return [np.asarray(Image.fromarray(cells).resize(SHAPE[::-1], Image.Resampling.NEAREST)) for cells in coarse]


def _fit(mask: np.ndarray) -> np.ndarray:
    out = np.zeros(SHAPE, np.uint8)
    part = mask[: SHAPE[0], : SHAPE[1]]
    out[: part.shape[0], : part.shape[1]] = part
    return out


def _decode_pillow(job: ScoreJob) -> None:
    for path in (job.mask, job.result):
        with Image.open(path) as image:
            np.asarray(image)


def _decode(job: ScoreJob) -> None:
    for path in (job.mask, job.result):
        read_mask(path, num_classes=job.num_classes)


def _rate(function: Callable[[ScoreJob], object], jobs: list[ScoreJob], repeat: int) -> float:
    for job in jobs[:20]:
        function(job)
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        for job in jobs:
            function(job)
        seconds.append(time.process_time() - start)
    return len(jobs) / min(seconds)


if __name__ == "__main__":
    main()
