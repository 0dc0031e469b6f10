"""CAMs to pseudo labels with the dense CRF on a device, several photos at a time."""

from collections.abc import Iterable, Iterator

import numpy as np

from rcatool.data.labels import write_mask
from rcatool.pseudo import LabelJob, LabelRule, scores_to_label, start_scores
from rcatool.refine.crf_torch import BATCH_PIXELS, dense_crf_batch

Maps = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # what `pseudo.read_job` returns


def make_labels_batched(items: Iterable[tuple[LabelJob, Maps]], rule: LabelRule, *, device: str) -> Iterator[int]:
    """Make the label PNGs of photos from what has been read of them; yields how many more are done, batch by batch."""
    for batch in batches(items, BATCH_PIXELS):
        yield _make_batch(batch, rule, device)


def batches(items: Iterable[tuple[LabelJob, Maps]], most: int) -> Iterator[list[tuple[LabelJob, Maps]]]:
    """Successive items together, as long as their photos have at most `most` pixels; a larger photo stays alone."""
    batch: list[tuple[LabelJob, Maps]] = []
    pixels = 0
    for item in items:
        height, width = item[0].size
        if batch and pixels + height * width > most:
            yield batch
            batch, pixels = [], 0
        batch.append(item)
        pixels += height * width
    if batch:
        yield batch


def _make_batch(batch: list[tuple[LabelJob, Maps]], rule: LabelRule, device: str) -> int:
    assert rule.crf_params is not None
    images = [image for _, (_, _, image) in batch if image is not None]
    scores = [start_scores(cam, rule) for _, (_, cam, _) in batch]
    for (job, (keys, _, _)), found in zip(batch, dense_crf_batch(images, scores, rule.crf_params, device=device), strict=True):
        write_mask(job.label, scores_to_label(found, keys, rule))
    return len(batch)
