"""What a change makes stale is made again, and nothing else; where nothing is stale nothing is touched."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Result
from tiny_run import STEPS, TinyRun, assign, contents, digests, prepare_arguments, record, snapshot

Rca = Callable[..., Result]

WITHOUT_TORCH = """
import sys
from rcatool.cli import main
code = main(sys.argv[1:])
assert not {"torch", "torchvision", "scipy"} & set(sys.modules), "loaded for nothing"
sys.exit(code)
"""


@pytest.mark.parametrize("word", ["run", "train-cls", "make-pseudo", "train-seg", "eval"])
def test_a_second_time_loads_no_torch_writes_nothing_and_says_so(undisturbed: TinyRun, tmp_path: Path, word: str) -> None:
    before = snapshot(undisturbed.path) | snapshot(undisturbed.data)
    words = [sys.executable, "-c", WITHOUT_TORCH, word, "--run", str(undisturbed.path)]
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ("everything is up to date\n" if word == "run" else f"{word}: up to date\n")
    assert snapshot(undisturbed.path) | snapshot(undisturbed.data) == before
    assert list(tmp_path.iterdir()) == []


def test_prepare_a_second_time_changes_nothing(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    before = snapshot(run) | snapshot(undisturbed.data)
    again = rca(*prepare_arguments(run, undisturbed.data))
    assert again.code == 0
    assert "│ photos " in again.out  # what is in the data set is shown all the same
    assert "prepare: up to date" in again.err
    after = snapshot(run) | snapshot(undisturbed.data)
    assert sorted(name for name in after if after[name] != before.get(name)) == [str(run / ".lock"), str(run / "run.log")]


CHANGES = [
    ("cls.lr=0.04", STEPS[1:], "cls.lr: 0.05 -> 0.04"),
    ("memory.momentum=0.9", STEPS[1:], "memory.momentum: 0.5 -> 0.9"),
    ("cam.scales=[1.0]", STEPS[2:], "cam.scales: [1.0, 1.5] -> [1.0]"),
    ("pseudo.bg_threshold=0.4", STEPS[3:], "pseudo.bg_threshold: 0.3 -> 0.4"),
    ("seg.flip=false", STEPS[4:], "seg.flip: true -> false"),
    ("eval.scales=[1, 1.5]", STEPS[5:], "eval.scales: [1.0] -> [1.0, 1.5]"),
    ("runtime.log_every=3", (), ""),
]


@pytest.mark.parametrize(("setting", "stale", "reason"), CHANGES, ids=[setting for setting, _, _ in CHANGES])
def test_a_changed_setting(rca: Rca, undisturbed: TinyRun, tmp_path: Path, setting: str, stale: tuple[str, ...], reason: str) -> None:
    run = undisturbed.copy(tmp_path / "run")
    assert rca("prepare", "shapes", "--run", run, *assign(setting)).code == 0  # nothing to prepare: the setting is kept
    steps = json.loads(rca("status", "--run", run, "--json").out)["steps"]
    assert {step["step"]: step["reasons"] for step in steps if step["state"] == "stale"} == {step: [reason] for step in stale}
    assert all(step["state"] == "current" for step in steps if step["step"] not in stale)

    before = {step: (run / step / "stage.json").read_bytes() for step in STEPS}
    done = rca("run", "--run", run)
    assert done.code == 0
    assert [step for step in STEPS if (run / step / "stage.json").read_bytes() != before[step]] == list(stale)
    if not stale:
        assert done.err == "everything is up to date\n"
        return
    assert f"{stale[0]}: stale ({reason}); the earlier output is kept in {run / 'old' / stale[0]}-" in done.err
    old = {step: [path for path in run.glob(f"old/{step}-*") if path.is_dir()] for step in STEPS}
    assert {step: len(found) for step, found in old.items()} == {step: int(step in stale) for step in STEPS}
    for step in stale:
        assert contents(old[step][0]) == contents(undisturbed.path / step)


def test_a_result_that_comes_out_the_same_leaves_what_follows_current(
    rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = undisturbed.copy(tmp_path / "run")
    monkeypatch.setattr("rcatool.stages.eval.best_class", lambda probabilities: pytest.fail("predicted again"))
    before = {step: record(run, step) for step in STEPS}
    done = rca("run", "--run", run, *assign("pseudo.bg_power=3"))  # counts with `background=power` only
    assert done.code == 0
    assert "make-pseudo/labels: stale (pseudo.bg_power: 4.0 -> 3.0)" in done.err
    # The scores say how the labels were made, so they are written again; the same predictions are counted.
    assert [step for step in STEPS if record(run, step) != before[step]] == ["make-pseudo/labels", "eval"]
    assert {step: digest for step, digest in digests(run).items() if digests(undisturbed.path)[step] != digest}.keys() == {"eval"}
    old, new = (json.loads((path / "eval" / "metrics.json").read_text()) for path in (undisturbed.path, run))
    assert (old["pseudo"]["protocol"]["pseudo"].pop("bg_power"), new["pseudo"]["protocol"]["pseudo"].pop("bg_power")) == (4.0, 3.0)
    assert old == new
    assert rca("run", "--run", run).err == "everything is up to date\n"


def test_a_setting_that_is_taken_back(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    stopped = rca("eval", "--run", run, *assign("cls.lr=0.04"))
    assert stopped.code == 4
    assert "eval needs the output of make-pseudo, which is stale (cls.lr: 0.05 -> 0.04)" in stopped.err
    assert rca("run", "--run", run, *assign("cls.lr=0.05")).err == "everything is up to date\n"


def test_changed_data_are_for_prepare(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    refused = rca("run", "--run", run, *assign("data.shapes_seed=1"))
    assert refused.code == 4
    assert "prepare, which is stale (data.shapes_seed: 0 -> 1)" in refused.err
    assert "hint: rca prepare shapes --run" in refused.err
    assert digests(run) == digests(undisturbed.path)


@pytest.mark.parametrize(("word", "steps"), [("eval", STEPS[5:]), ("make-pseudo", STEPS[2:4])])
def test_force_keeps_the_old_and_gives_the_same(rca: Rca, undisturbed: TinyRun, tmp_path: Path, word: str, steps: tuple[str, ...]) -> None:
    run = undisturbed.copy(tmp_path / "run")
    assert rca(word, "--run", run, "--force").code == 0
    for step in steps:
        [old] = run.glob(f"old/{step}-*")
        assert contents(old) == contents(undisturbed.path / step)
    assert digests(run) == digests(undisturbed.path)
    assert rca("run", "--run", run).err == "everything is up to date\n"
