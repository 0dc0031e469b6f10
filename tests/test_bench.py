"""`rca bench`: its rows, what it makes of them, and the meters it reads."""

import json
import mmap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Result
from tiny_run import TinyRun, snapshot

from rcatool.throughput import PeakMemory, Waiting, matrix_rate

STAGES = ["loading", "train-cls", "make-pseudo CAMs", "make-pseudo labels", "train-seg", "eval predictions", "eval scores"]


def test_bench_measures_every_stage_and_writes_nothing_into_the_run(rca: Callable[..., Result], undisturbed: TinyRun) -> None:
    before = snapshot(undisturbed.path)
    done = rca("bench", "--run", undisturbed.path, "--seconds", "0.02", "--json", "--out", "bench.json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert json.loads(Path("bench.json").read_text()) == document
    assert snapshot(undisturbed.path) == before
    rows = {row["stage"]: row for row in document["stages"]}
    assert list(rows) == STAGES
    for row in rows.values():
        assert row["images"] >= 1
        assert row["images_per_s"] == pytest.approx(row["images"] / row["seconds"])
    for stage, passes in (("train-cls", 3), ("train-seg", 3)):  # of the tiny run
        assert document["extrapolated"]["VOC 2012 trainaug"][stage] == pytest.approx(10_582 * passes / rows[stage]["images_per_s"])
        assert 0 <= rows[stage]["waiting"] <= 1
    seconds = document["extrapolated"]["COCO 2014"]
    assert seconds["eval predictions"] == pytest.approx(40_137 / rows["eval predictions"]["images_per_s"])
    assert seconds["all"] == pytest.approx(sum(value for name, value in seconds.items() if name != "all"))
    cams = rows["make-pseudo CAMs"]
    assert cams["share_of_matrix_rate"] == pytest.approx(cams["flop_per_image"] * cams["images_per_s"] / document["matrix"]["flop_per_s"])


def test_bench_needs_a_prepared_run(rca: Callable[..., Result]) -> None:
    assert rca("bench", "--run", "nowhere").code == 4


def test_share_of_the_time_that_is_waited() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    waiting = Waiting(slow())
    assert list(waiting) == [0, 1, 2]
    assert waiting.share > 0.9
    assert "% of the time waiting for data" in waiting.note
    waiting = Waiting(range(3))
    for _ in waiting:
        time.sleep(0.05)
    assert waiting.share < 0.1
    assert waiting.note == ""


def test_peak_memory_starts_anew() -> None:
    with mmap.mmap(-1, 200 * 2**20) as large:  # pages of its own, which torch's memory may not be
        large.write(bytes(200 * 2**20))
    meter = PeakMemory(torch.device("cpu"))
    before = meter.mib
    if before is None:
        pytest.skip("the system does not tell")
    with mmap.mmap(-1, 100 * 2**20) as kept:
        kept.write(b"1" * (100 * 2**20))
        assert meter.mib is not None
        assert 90 <= meter.mib - before <= 230


def test_matrix_rate_counts_two_operations_per_term() -> None:
    device = torch.device("cpu")
    start = time.perf_counter()
    rate = matrix_rate(device, torch.float32, side=256, seconds=0)
    assert rate >= 3 * 2 * 256**3 / (time.perf_counter() - start)
