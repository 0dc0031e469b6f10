"""Regions gathered over processes (gloo): any number of them must fill the same memory as one (invariant 12)."""

from pathlib import Path

import pytest
import torch
from some_regions import regions_of
from torch import Tensor, distributed, multiprocessing

from rcatool.models.region_memory import WriteRule, build_memory
from rcatool.models.regions import gather_regions
from rcatool.ranks import all_rows

BATCH, CLASSES, WIDTH, STEPS = 8, 3, 5, 3
DESIGNS = ("instance-ema", "fifo", "ring-ema")
TAGS = torch.rand(STEPS * BATCH, CLASSES, generator=torch.Generator().manual_seed(0)) > 0.5


def step_data(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of a global batch: region features (B, C, D), photos (B,), scores (B, C)."""
    generator = torch.Generator().manual_seed(step)
    features = torch.randn(BATCH, CLASSES, WIDTH, generator=generator)
    return features, torch.arange(BATCH) + step * BATCH, torch.rand(BATCH, CLASSES, generator=generator)


def filled(design: str, rank: int, size: int) -> dict[str, Tensor]:
    """The memory after all steps, each process having seen its share of every batch."""
    memory = build_memory(TAGS, WIDTH, design=design, size=4, prototypes=2)
    for step in range(STEPS):
        share = slice(rank * BATCH // size, (rank + 1) * BATCH // size)  # of 3 processes one has fewer photos
        features, photo, score = (part[share] for part in step_data(step))
        image, cls = TAGS[photo].nonzero(as_tuple=True)  # as many as there are: another number in every process
        regions = gather_regions(regions_of(features[image, cls], image, cls), len(photo))
        memory.update(regions, all_rows(photo), all_rows(score), rule=WriteRule(momentum=0.5, confidence=0.3))
    memory.refresh_prototypes(seed=1, iterations=5)
    return dict(memory.state_dict())


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    torch.save({design: filled(design, rank, size) for design in DESIGNS}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_processes_fill_the_memory_as_one_does(size: int, tmp_path: Path) -> None:
    multiprocessing.spawn(work, args=(size, str(tmp_path)), nprocs=size)  # type: ignore[no-untyped-call]
    for design in DESIGNS:
        expected = filled(design, 0, 1)
        assert int(expected["visits"].sum()) > 10
        for rank in range(size):
            found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)[design]
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected), (design, rank)
