"""The region memory: what is written where, by which design, and what the prototypes are made of."""

import io
from typing import Any

import pytest
import torch
from some_regions import regions_of
from torch import Tensor

from rcatool.kmeans import kmeans
from rcatool.models.region_memory import RegionMemory, WriteRule, build_memory

WIDTH, CLASSES, SIZE = 3, 3, 4
DESIGNS = ("instance-ema", "fifo", "ring-ema")
TAGS = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1]]).bool()
GARBAGE = 1e6


def memory(design: str, prototypes: int = 2) -> RegionMemory:
    return build_memory(TAGS, WIDTH, design=design, size=SIZE, prototypes=prototypes)


def features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def write(bank: RegionMemory, values: Tensor, photos: list[int], classes: list[int], **settings: Any) -> int:
    """Update with one region per image of the batch, all scored 1 unless `score` says otherwise."""
    rows = torch.arange(len(photos))
    score = settings.pop("score", torch.ones(len(photos), CLASSES))
    momentum = 0.0 if settings.get("design") == "fifo" else settings.get("momentum", 0.5)
    rule = WriteRule(momentum, settings.get("confidence", 0.3))
    regions = regions_of(values, rows, torch.tensor(classes, dtype=torch.long))
    return int(bank.update(regions, torch.tensor(photos, dtype=torch.long), score, rule=rule, epoch=settings.get("epoch", 0)).sum())


def state(bank: RegionMemory) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in bank.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_slot_for_each_photo_and_tag() -> None:
    bank = memory("instance-ema")
    assert len(bank.bank) == int(TAGS.sum())
    assert bank.slots is not None
    for photo, cls in TAGS.nonzero().tolist():
        assert int(bank.slot_class[bank.slots[photo, cls]]) == cls
    assert sorted(bank.slots[TAGS].tolist()) == list(range(len(bank.bank)))
    assert (bank.slots[~TAGS] == -1).all()


@pytest.mark.parametrize("design", ["fifo", "ring-ema"])
def test_slots_of_a_class_lie_together(design: str) -> None:
    assert memory(design).slot_class.tolist() == [0] * SIZE + [1] * SIZE + [2] * SIZE


@pytest.mark.parametrize("written", [0, 1, 3, 4, 5, 8, 11])
def test_fifo_keeps_the_last_ones_in_ring_order(written: int) -> None:
    bank, values = memory("fifo"), features(written)
    write(bank, values, [0] * written, [1] * written, design="fifo")
    ring: list[Any] = [None] * SIZE
    for t in range(written):
        ring[t % SIZE] = values[t]
    own = bank.bank[SIZE : 2 * SIZE]
    assert all(torch.equal(own[i], value) for i, value in enumerate(ring) if value is not None)
    assert int(bank.cursor[1]) == written % SIZE
    assert bank.valid_entries[1].tolist() == [1] * min(written, SIZE)
    assert bank.cursor[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_batch_equals_its_parts(design: str) -> None:
    generator = torch.Generator().manual_seed(1)
    pairs = TAGS.nonzero()[torch.randint(int(TAGS.sum()), (20,), generator=generator)]  # some pairs often, more than SIZE of a class
    photos, classes = pairs[:, 0].tolist(), pairs[:, 1].tolist()
    values, whole, parts = features(20), memory(design), memory(design)
    write(whole, values, photos, classes, design=design)
    for start, end in ((0, 1), (1, 8), (8, 20)):
        write(parts, values[start:end], photos[start:end], classes[start:end], design=design)
    assert same(state(whole), state(parts))


def written_by_hand(design: str, values: Tensor, pairs: list[list[int]]) -> list[tuple[int, list[float]]]:
    """(class, feature) of every entry, region after region in lists of plain numbers, momentum one half (fifo: none), by class and slot."""
    kept: dict[tuple[int, int], list[float]] = {}
    counts = [0] * CLASSES
    for value, (photo, cls) in zip(values.tolist(), pairs, strict=True):
        place = (cls, photo if design == "instance-ema" else counts[cls] % SIZE)
        counts[cls] += 1
        old = None if design == "fifo" else kept.get(place)
        kept[place] = [(new + before) / 2 for new, before in zip(value, old or value, strict=True)]
    return [(cls, kept[cls, place]) for cls, place in sorted(kept)]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_batch_is_written_region_after_region(design: str) -> None:
    generator = torch.Generator().manual_seed(1)
    pairs = TAGS.nonzero()[torch.randint(int(TAGS.sum()), (20,), generator=generator)]
    assert max(torch.bincount(pairs[:, 1]).tolist()) > SIZE
    bank, values = memory(design), features(20)
    write(bank, values, pairs[:, 0].tolist(), pairs[:, 1].tolist(), design=design)
    entries, classes = bank.valid_entries
    order = classes.argsort(stable=True)  # slots of an instance memory go by photo, then class
    expected = written_by_hand(design, values, pairs.tolist())
    assert classes[order].tolist() == [cls for cls, _ in expected]
    torch.testing.assert_close(entries[order], torch.tensor([value for _, value in expected]))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_instance_ema_is_the_closed_form(momentum: float) -> None:
    bank, values = memory("instance-ema"), features(6)
    for k, value in enumerate(values):
        write(bank, value[None], [2], [0], momentum=momentum)
        weights = [momentum**k] + [(1 - momentum) * momentum ** (k - i) for i in range(1, k + 1)]
        expected = sum(w * v for w, v in zip(weights, values[: k + 1], strict=True))
        entries, classes = bank.valid_entries
        torch.testing.assert_close(entries, expected[None])
        assert classes.tolist() == [0]
    assert bank.visits.sum() == 6


def test_instance_ema_of_equal_features_is_that_feature() -> None:
    bank, value = memory("instance-ema"), features(1)
    for visit in range(5):
        write(bank, value, [5], [2], momentum=0.5)
        assert torch.equal(bank.valid_entries[0], value), visit


def test_ring_ema_mixes_with_what_was_in_the_slot() -> None:
    bank, first, later = memory("ring-ema"), features(SIZE), features(1, seed=1)
    write(bank, first, [0] * SIZE, [1] * SIZE, design="ring-ema", momentum=0.9)
    assert torch.equal(bank.valid_entries[0], first)
    for updates in range(1, 4):
        write(bank, later.expand(SIZE, WIDTH), [0] * SIZE, [1] * SIZE, design="ring-ema", momentum=0.9)
        torch.testing.assert_close(bank.valid_entries[0], 0.9**updates * first + (1 - 0.9**updates) * later)


@pytest.mark.parametrize("design", DESIGNS)
def test_only_confident_finite_regions_are_written(design: str) -> None:
    bank, before = memory(design), state(memory(design))
    score = torch.tensor([[0.25, 1, 1], [1, 0.125, 1], [float("nan"), 1, 1]])  # not above 0.25, for the classes below
    assert write(bank, features(3), [0, 1, 2], [0, 1, 0], score=score, confidence=0.25, design=design) == 0
    broken = features(2)
    broken[0, 1], broken[1, 0] = float("nan"), float("inf")
    assert write(bank, broken, [0, 1], [0, 1], design=design) == 0
    assert write(bank, features(0), [], [], design=design) == 0
    assert same(state(bank), before)
    assert write(bank, features(3), [0, 1, 2], [0, 1, 0], score=score + 0.25, confidence=0.25, design=design) == 2
    assert bank.bank.isfinite().all()


def test_state_survives_a_file_and_has_no_gradient() -> None:
    bank = memory("fifo")
    write(bank, features(6).requires_grad_(), [0] * 6, [0, 1, 0, 1, 1, 0], design="fifo")
    bank.refresh_prototypes(seed=0, iterations=5)
    assert list(bank.parameters()) == []
    assert not any(buffer.requires_grad for buffer in bank.buffers())
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other = memory("fifo")
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same(state(other), state(bank))
    assert set(state(bank)) == {"bank", "slot_class", "visits", "written", "cursor", "prototypes", "prototype_valid"}


@pytest.mark.parametrize("design", DESIGNS)
def test_slots_that_were_never_written_take_part_in_nothing(design: str) -> None:
    clean, dirty = memory(design), memory(design)
    dirty.bank.fill_(GARBAGE)
    dirty.prototypes.fill_(GARBAGE)
    for bank in (clean, dirty):
        write(bank, features(4), [0, 0, 2, 5], [0, 1, 0, 0], design=design)
        bank.refresh_prototypes(seed=3, iterations=10)
    for first, second in zip(clean.valid_entries, dirty.valid_entries, strict=True):
        assert torch.equal(first, second)
    assert torch.equal(clean.valid_prototypes, dirty.valid_prototypes)
    assert dirty.valid_prototypes.max() < GARBAGE


def test_prototypes_are_k_means_of_each_class() -> None:
    bank, values = memory("fifo", prototypes=2), features(7)
    classes = [0, 0, 0, 0, 2, 0, 0]  # more than SIZE of class 0; one of class 2; none of class 1
    write(bank, values, [0] * 7, classes, design="fifo")
    bank.refresh_prototypes(seed=11, iterations=10)
    assert bank.prototype_valid.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(bank.prototypes[0], kmeans(bank.bank[:SIZE], torch.zeros(SIZE).long(), 1, 2, seed=11, iterations=10)[0][0])
    assert torch.equal(bank.prototypes[2, 0], values[4])
    assert torch.equal(bank.valid_prototypes, torch.cat([bank.prototypes[0], bank.prototypes[2, :1]]))


def test_prototypes_are_remade_from_what_is_stored_now() -> None:
    bank = memory("fifo")
    assert len(bank.valid_prototypes) == 0
    bank.refresh_prototypes(seed=0, iterations=5)
    assert len(bank.valid_prototypes) == 0
    for seed in (0, 1):
        write(bank, features(SIZE, seed), [0] * SIZE, [1] * SIZE, design="fifo")
        bank.refresh_prototypes(seed=0, iterations=5)
        assert torch.equal(bank.valid_prototypes, kmeans(features(SIZE, seed), torch.zeros(SIZE).long(), 1, 2, seed=0, iterations=5)[0][0])
    bank.visits.zero_()
    bank.refresh_prototypes(seed=0, iterations=5)
    assert len(bank.valid_prototypes) == 0


def test_a_memory_without_prototypes_has_none() -> None:
    bank = memory("instance-ema", prototypes=0)
    write(bank, features(2), [0, 1], [0, 1])
    bank.refresh_prototypes(seed=0, iterations=5)
    assert bank.valid_prototypes.shape == (0, WIDTH)


def test_the_census_counts_by_hand() -> None:
    bank = memory("instance-ema")  # class 0: photos 0 2 3 5, class 1: 0 1 5, class 2: 2 4 5
    write(bank, features(3), [0, 2, 0], [0, 0, 1], epoch=1)
    write(bank, features(1), [2], [0], epoch=4)
    census = {name: value.tolist() for name, value in bank.census(5).items()}
    assert census == {"slots": [4, 3, 3], "filled": [2, 1, 0], "visits": [1.5, 1, 0], "age": [2.5, 4, 0]}
