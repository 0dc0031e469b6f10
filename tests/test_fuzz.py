"""A small share of `make fuzz`: each reader with files that hypothesis has changed."""

import random
from pathlib import Path

import pytest
from fuzz_targets import TARGETS
from fuzzing import fuzz, mutate, run
from hypothesis import given, settings
from hypothesis import strategies as st

from rcatool.errors import DataError


@pytest.mark.filterwarnings("ignore")  # of NumPy and torch, about files of other programs
@pytest.mark.parametrize("name", TARGETS)
def test_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a file that is executed would leave a trace here
    target = TARGETS[name]
    seeds = target.seeds()
    for seed in seeds:
        assert run(target, seed, tmp_path) == ""

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(whole=st.sampled_from(seeds), other=st.sampled_from(seeds), number=st.integers(0, 2**32), cut=st.none() | st.integers(0, 4000))
    def changed(whole: bytes, other: bytes, number: int, cut: int | None) -> None:
        assert run(target, mutate(whole, other, random.Random(number))[:cut], tmp_path) == ""

    changed()


def test_the_fuzzer_finds_what_is_wrong(tmp_path: Path) -> None:
    """A reader that fails for some inputs only; and a trace of a file that was executed."""

    def read(path: Path) -> None:
        data = path.read_bytes()
        if not data.startswith(b"{"):
            raise DataError("no")
        raise ZeroDivisionError

    from fuzzing import Target

    _, failures = fuzz(Target(".txt", lambda: [b"abc"], read), runs=300, seed=0, folder=tmp_path)
    assert list(failures) == ["ZeroDivisionError: "]
    assert failures["ZeroDivisionError: "].startswith(b"{")
    (tmp_path / "hacked").touch()
    assert run(Target(".txt", lambda: [], lambda path: None), b"", tmp_path) == "a file was executed"
