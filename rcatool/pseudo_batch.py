"""CAMs to pseudo labels with the dense CRF on a device, several photos at a time."""

from collections.abc import Iterable, Iterator

from rcatool.data.labels import write_mask
from rcatool.pseudo import LabelJob, LabelRule, Photo, scores_to_label, start_scores
from rcatool.refine.crf_torch import BATCH_PIXELS, dense_crf_batch


def make_labels_batched(items: Iterable[tuple[LabelJob, Photo]], rule: LabelRule, *, device: str) -> Iterator[int]:
    """Make the label PNGs of photos from what has been read of them; yields how many more are done, batch by batch."""
    for batch in batches(items, BATCH_PIXELS):
        yield _make_batch(batch, rule, device)


def batches(items: Iterable[tuple[LabelJob, Photo]], most: int) -> Iterator[list[tuple[LabelJob, Photo]]]:
    """Successive items together, as long as their photos have at most `most` pixels; a larger photo stays alone."""
    batch: list[tuple[LabelJob, Photo]] = []
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


def _make_batch(batch: list[tuple[LabelJob, Photo]], rule: LabelRule, device: str) -> int:
    assert rule.crf_params is not None
    starts = [start_scores(photo, rule) for _, photo in batch]
    images = [photo.image for (_, photo), stacks in zip(batch, starts, strict=True) for _ in stacks]
    found = iter(dense_crf_batch(images, [one for stacks in starts for one in stacks], rule.crf_params, device=device))
    for (job, photo), stacks in zip(batch, starts, strict=True):
        write_mask(job.label, scores_to_label([next(found) for _ in stacks], photo, rule))
    return len(batch)
