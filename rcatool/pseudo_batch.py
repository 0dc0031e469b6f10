"""CAMs to pseudo labels with the dense CRF on a device, several photos at a time."""

from collections.abc import Iterable, Iterator

from rcatool.data.labels import write_mask
from rcatool.errors import DataError
from rcatool.pseudo import LabelJob, LabelRule, Photo, scores_to_label, start_scores
from rcatool.refine.crf_torch import BATCH_PIXELS, dense_crf_batch


def make_labels_batched(
    items: Iterable[tuple[LabelJob, Photo | DataError]], rule: LabelRule, *, device: str
) -> Iterator[DataError | None]:
    """Make the label PNGs of photos from what has been read of them, batch by batch.

    Yields None for each that is done, and at last what is wrong with those that could not be read.
    """
    broken: list[DataError] = []
    for batch in batches(_readable(items, broken), BATCH_PIXELS):
        _make_batch(batch, rule, device)
        yield from [None] * len(batch)
    yield from broken


def _readable(items: Iterable[tuple[LabelJob, Photo | DataError]], broken: list[DataError]) -> Iterator[tuple[LabelJob, Photo]]:
    for job, photo in items:
        if isinstance(photo, DataError):
            broken.append(photo)
        else:
            yield job, photo


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


def _make_batch(batch: list[tuple[LabelJob, Photo]], rule: LabelRule, device: str) -> None:
    assert rule.crf_params is not None
    starts = [start_scores(photo, rule) for _, photo in batch]
    images = [photo.image for (_, photo), stacks in zip(batch, starts, strict=True) for _ in stacks]
    found = iter(dense_crf_batch(images, [one for stacks in starts for one in stacks], rule.crf_params, device=device))
    for (job, photo), stacks in zip(batch, starts, strict=True):
        write_mask(job.label, scores_to_label([next(found) for _ in stacks], photo, rule))
