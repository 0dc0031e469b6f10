"""Data sets: an item depends on (seed, epoch, index) alone, and batches hold each photo once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_voc import make_photo

from rcatool.data.datasets import ClsDataset, MultiScaleDataset, SegDataset, Variation, tag_vector
from rcatool.data.labels import IGNORE, write_mask
from rcatool.data.loaders import EpochBatches, train_loader, view_loader
from rcatool.data.manifest import Sample, draft
from rcatool.data.photos import read_image
from rcatool.data.transforms import normalise, resize, to_tensor
from rcatool.errors import DataError

CLASSES = 3
SIZES = [(12, 16), (20, 9), (16, 16), (7, 7), (24, 30)]


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Five photos of noise below tmp_path, with tags."""
    made = []
    for i, size in enumerate(SIZES):
        make_photo(tmp_path / f"{i}.png", i, size)
        one = draft(str(i), "train", image=f"{i}.png", mask=None, classes=[i % CLASSES, (i * i) % CLASSES])
        made.append(Sample(**{**vars(one), "size": size}))
    return made


def cls_dataset(samples: list[Sample], root: Path, seed: int = 0) -> ClsDataset:
    return ClsDataset(samples, root, CLASSES, Variation(10, True, 0.3, seed), resize_long=(8, 14))


def seg_dataset(samples: list[Sample], root: Path, scale: tuple[float, float] = (0.5, 1.5), seed: int = 0) -> SegDataset:
    for sample in samples:
        label = np.random.default_rng(int(sample.id)).choice(np.array([0, 1, 3, IGNORE], np.uint8), sample.size)
        write_mask(root / "labels" / f"{sample.id}.png", label)
    return SegDataset(samples, root, CLASSES, Variation(10, True, 0.3, seed), labels=root / "labels", resize_scale=scale)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (5, 2), (6, 3), (7, 16), (100, 8)])
def test_an_epoch_holds_each_index_once(count: int, batch_size: int) -> None:
    batches = EpochBatches(count, batch_size, seed=3)
    orders = []
    for epoch in range(3):
        batches.epoch = epoch
        drawn = list(batches)
        assert len(drawn) == len(batches)
        assert all(len(batch) == batch_size for batch in drawn[:-1])
        keys = [key for batch in drawn for key in batch]
        assert sorted(keys) == [(epoch, index) for index in range(count)]
        orders.append([index for _, index in keys])
    if count == 100:
        assert len({tuple(order) for order in orders}) == 3


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first, second, other = EpochBatches(50, 4, seed=1), EpochBatches(50, 4, seed=1), EpochBatches(50, 4, seed=2)
    list(first)  # an epoch more or less before it
    first.epoch = second.epoch = other.epoch = 2
    assert list(first) == list(second) == list(second)
    assert list(first) != list(other)


def test_tag_vector() -> None:
    sample = draft("a", "train", image="a.png", mask=None, classes=[4, 0])
    assert tag_vector(sample, 6).tolist() == [1, 0, 0, 0, 1, 0]
    assert tag_vector(draft("a", "val", image="a.png", mask=None, classes=[]), 2).tolist() == [0, 0]


def test_cls_items(samples: list[Sample], tmp_path: Path) -> None:
    dataset = cls_dataset(samples, tmp_path)
    assert len(dataset) == 5
    for index in range(5):
        image, tags, back, view = dataset[3, index]
        assert (image.shape, image.dtype, back) == ((3, 10, 10), torch.float32, index)
        assert 8 <= max(view[:2].tolist()) <= 14
        assert tags.nonzero().flatten().tolist() == list(samples[index].classes)
        padded = max(0, 10 - round(SIZES[index][0] * 14 / max(SIZES[index])))
        assert int((image == 0).all(dim=0).sum()) >= padded * 10


def test_items_are_reproducible_and_differ_between_epochs_and_seeds(samples: list[Sample], tmp_path: Path) -> None:
    for make in (cls_dataset, seg_dataset):
        first, again, other = make(samples, tmp_path), make(samples, tmp_path), make(samples, tmp_path, seed=1)
        first[0, 4]  # what came before does not matter
        assert torch.equal(first[1, 2][0], again[1, 2][0])
        assert torch.equal(first[1, 2][1], again[1, 2][1])
        assert not torch.equal(first[1, 2][0], first[2, 2][0])
        assert not torch.equal(first[1, 2][0], other[1, 2][0])


def test_seg_items(samples: list[Sample], tmp_path: Path) -> None:
    dataset = seg_dataset(samples, tmp_path)
    for index in range(5):
        image, label, back = dataset[0, index]
        assert (image.shape, label.shape, label.dtype, back) == ((3, 10, 10), (10, 10), torch.int64, index)
        assert set(label.unique().tolist()) <= {0, 1, 3, IGNORE}
        outside = (image == 0).all(dim=0)
        assert (label[outside] == IGNORE).all()


def test_a_label_lies_on_its_photo(tmp_path: Path) -> None:
    # Photo and label are drawn from the same blocks: bright where the label is 2.
    blocks = np.random.default_rng(0).integers(0, 2, (4, 5), np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray((30 + 200 * blocks)[..., None].repeat(3, 2).astype(np.uint8)).save(tmp_path / "a.png")
    write_mask(tmp_path / "labels" / "a.png", 2 * blocks)
    sample = Sample(**{**vars(draft("a", "train", image="a.png", mask=None, classes=[1])), "size": (32, 40)})
    vary = Variation(crop_size=32, flip=True, color_jitter=0.0, seed=0)
    dataset = SegDataset([sample], tmp_path, CLASSES, vary, labels=tmp_path / "labels", resize_scale=(0.7, 1.5))
    for epoch in range(12):
        image, label, _ = dataset[epoch, 0]
        clear = (label != IGNORE) & (image[0].abs() > 1.3)  # away from the edges of blocks
        assert clear.sum() > 300
        assert torch.equal(image[0][clear] > 0, label[clear] == 2)


def test_a_label_of_another_size_is_named(samples: list[Sample], tmp_path: Path) -> None:
    dataset = seg_dataset(samples, tmp_path)
    write_mask(tmp_path / "labels" / "2.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"2\.png: mask is 4 x 4"):
        dataset[0, 2]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of more processes than cores
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_make_no_difference(samples: list[Sample], tmp_path: Path, workers: int) -> None:
    dataset, batches = cls_dataset(samples, tmp_path), EpochBatches(5, 2, seed=0)
    inline, spread = (train_loader(dataset, batches, workers=workers, pin=False) for workers in (0, workers))
    for epoch in range(2):
        batches.epoch = epoch
        pairs = list(zip(inline, spread, strict=True))
        assert len(pairs) == 3
        for first, second in pairs:
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_views_are_the_photo_at_each_scale_and_its_mirror_image(samples: list[Sample], tmp_path: Path) -> None:
    dataset = MultiScaleDataset(samples, tmp_path, scales=(0.5, 1.0, 1.5), flip=True)
    for expected, (index, views) in enumerate(view_loader(dataset, workers=0)):
        assert index == expected
        photo = to_tensor(read_image(tmp_path / samples[index].image))
        for scale, view in zip((0.5, 1.0, 1.5), views, strict=True):
            size = [round(side * scale) for side in samples[index].size]
            assert torch.equal(view[0], normalise(resize(photo, *size)))
            assert torch.equal(view[1], view[0].flip(-1))
    plain = MultiScaleDataset(samples, tmp_path, scales=(1.0,), flip=False)[0][1]
    assert [view.shape for view in plain] == [(1, 3, *SIZES[0])]


def test_a_square_holds_the_whole_photo(samples: list[Sample], tmp_path: Path) -> None:
    dataset = ClsDataset(samples, tmp_path, CLASSES, Variation(10, False, 0, 0), resize_long=None)
    for index, sample in enumerate(samples):
        expected = normalise(resize(to_tensor(read_image(tmp_path / sample.image)), 10, 10))
        assert torch.equal(dataset[0, index][0], expected)


def test_batches_in_the_photos_own_order() -> None:
    batches = EpochBatches(5, 2, seed=3, shuffle=False)
    for epoch in (0, 4):
        batches.epoch = epoch
        assert list(batches) == [[(epoch, 0), (epoch, 1)], [(epoch, 2), (epoch, 3)], [(epoch, 4)]]
