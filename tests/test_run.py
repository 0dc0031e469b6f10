"""The run directory: states, reasons, resume, what is kept, the lock."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcatool import config_io, lock
from rcatool.config import Config
from rcatool.errors import DataError, SetupError, StageError
from rcatool.run import Run
from rcatool.steps import in_force

# Which steps a change of a section makes stale, from section 3 of the architecture, written out by hand.
ALL = ("prepare", "train-cls", "make-pseudo/cams", "make-pseudo/labels", "train-seg", "eval")
STALE = {
    "data": ALL,
    "cls": ALL[1:],
    "memory": ALL[1:],
    "seed": ALL[1:],
    "cam": ALL[2:],
    "pseudo": ALL[3:],
    "seg": ALL[4:],
    "eval": ALL[5:],
    "runtime": (),
    "affinity": (),
    "second": ALL[5:],
}
REFINED = (*ALL[:3], "make-pseudo/refined", *ALL[3:])
TRAINED = (*ALL[:3], "make-pseudo/affinity", *REFINED[3:])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def changed(config: Config, *assignments: str) -> Config:
    return config_io.apply_settings(config, assignments)


def make(run: Run, step: str, config: Config, content: str | None = None, *, force: bool = False) -> bool:
    """Do a step whose output is `content` (by default its own name); whether there was work."""
    step_dir = run.begin(step, config, force=force)
    if step_dir is None:
        return False
    (step_dir.path / "a.txt").write_text(content or step)
    (step_dir.path / "b.txt").write_text("same")
    run.commit(step_dir, {"photos": 2})
    return True


def make_all(run: Run, config: Config) -> list[str]:
    return [step for step in in_force(config) if make(run, step, config)]


def kinds(run: Run, config: Config) -> dict[str, str]:
    return {name: state.kind for name, state in run.states(config).items()}


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


OTHER_VALUES = {"seg.input_scales": "[0.5]", "seg.head_width": "64"}  # of settings that not every value is valid for


def another(dotted: str, config: Config) -> str:
    """A valid value that is not the present one."""
    now = config_io.get(config, dotted)
    annotation: Any = config_io.settings()[dotted].annotation
    if isinstance(now, bool):
        return str(not now).lower()
    if dotted in OTHER_VALUES:
        return OTHER_VALUES[dotted]
    if isinstance(now, tuple):
        return f"[{now[0] / 2 if isinstance(now[0], float) else now[0] - 1}, {', '.join(map(str, now[1:]))}]"
    if isinstance(now, (int, float)) and not get_args(annotation):
        return str(now + 1) if isinstance(now, int) else str(now / 2 + 0.011)
    choices = [str(choice) for choice in get_args(annotation) if choice != now]
    if dotted.endswith(".backbone"):  # names, but open-ended: those of timm belong to it
        return "tiny"
    return choices[0] if choices else f"{now}x"


def test_a_first_run_and_a_second(run: Run) -> None:
    assert set(kinds(run, Config()).values()) == {"missing"}
    assert make_all(run, Config()) == list(ALL)
    before = files(run.root)
    assert set(kinds(run, Config()).values()) == {"current"}
    assert make_all(run, Config()) == []
    assert files(run.root) == before


@pytest.mark.parametrize("method", ["rca", "cam"])
def test_each_setting_makes_exactly_its_steps_stale(run: Run, method: str) -> None:
    config = changed(Config(), f"cls.method={method}", "seg.validate_every=1")  # without which there is no best to keep
    make_all(run, config)
    tried = 0
    for dotted in config_io.settings():
        section = dotted.partition(".")[0]
        if dotted == "cls.method" or section == "refine":
            continue  # the memory is its own test, and so is refinement
        elsewhere = dotted.startswith(("data.coco_", "cam.source_")) or (section == "memory" and method == "cam")
        elsewhere |= section == "second" and dotted != "second.enabled"
        stale = () if dotted == "data.root" or elsewhere else STALE[section]
        states = run.states(changed(config, f"{dotted}={another(dotted, config)}"))
        assert {name for name, state in states.items() if state.kind == "stale"} == set(stale), dotted
        assert all(any(reason.startswith(f"{dotted}: ") for reason in states[name].reasons) for name in stale), dotted
        tried += 1
    assert tried == len(config_io.settings()) - 1 - sum(dotted.startswith("refine.") for dotted in config_io.settings())


def test_settings_with_a_second_round(run: Run) -> None:
    first = changed(Config(), "seg.validate_every=1")  # without which there is no best to keep
    config = changed(first, "second.enabled=true")
    assert make_all(run, first) == list(ALL)
    second = ["make-pseudo/round-2", "train-seg-2", "eval"]
    assert make_all(run, config) == second
    stale = {"second": second, "seg": ["train-seg", *second], "seed": [*ALL[1:5], *second], "eval": ["eval"]}
    for dotted in config_io.settings():
        section = dotted.partition(".")[0]
        if section in stale and dotted not in ("second.enabled", "seg.labels"):  # of true masks there is no second round
            states = run.states(changed(config, f"{dotted}={another(dotted, config)}"))
            assert [name for name, state in states.items() if state.kind == "stale"] == stale[section], dotted
    assert kinds(run, first) == dict.fromkeys(ALL[:-1], "current") | {"eval": "stale"}


@pytest.mark.parametrize(("method", "steps"), [("none", ALL), ("walk", REFINED), ("affinity", TRAINED), ("irn", TRAINED)])
def test_settings_of_a_refinement_count_for_its_steps_alone(run: Run, method: str, steps: tuple[str, ...]) -> None:
    config = changed(Config(), f"refine.method={method}")
    assert make_all(run, config) == list(steps)
    others = {"affinity.powers": "affinity", "affinity.thresholds": "irn"}
    for dotted in config_io.settings():
        section, _, name = dotted.partition(".")
        if section not in ("refine", "affinity", "cam", "pseudo") or name == "method" or dotted.startswith("cam.source"):
            continue
        if section in ("cam", "pseudo"):
            first = {"cam": "make-pseudo/cams", "pseudo": "make-pseudo/labels"}[section]
        elif section == "refine":
            first = "make-pseudo/refined" if name.startswith(method) else ""
        else:
            first = "make-pseudo/affinity" if steps == TRAINED and others.get(dotted, method) == method else ""
        states = run.states(changed(config, f"{dotted}={another(dotted, config)}"))
        expected = steps[steps.index(first) :] if first else ()
        assert {name for name, state in states.items() if state.kind != "current"} == set(expected), dotted


def test_another_refinement_makes_the_steps_it_lacks_missing(run: Run) -> None:
    make_all(run, Config())
    walk, irn = (changed(Config(), f"refine.method={method}") for method in ("walk", "irn"))
    assert kinds(run, walk) == dict.fromkeys(REFINED, "current") | {
        "make-pseudo/refined": "missing", **dict.fromkeys(ALL[3:], "stale")
    }  # fmt: skip
    assert run.state("make-pseudo/labels", walk).reasons == (
        "refine.method: none -> walk", "refine.walk_radius: (not used) -> 16", "refine.walk_beta: (not used) -> 8.0",
        "refine.walk_steps: (not used) -> 16",
    )  # fmt: skip
    assert make_all(run, walk) == ["make-pseudo/refined", "make-pseudo/labels", "eval"]  # the stand-in labels come out as they were
    assert kinds(run, irn)["make-pseudo/affinity"] == "missing"
    assert kinds(run, irn)["make-pseudo/refined"] == "stale"
    with pytest.raises(StageError, match="make-pseudo needs the output of make-pseudo") as caught:
        run.begin("make-pseudo/refined", irn)
    assert caught.value.hint == f"rca make-pseudo --run {run.root}"
    # And back: the refined CAMs stay where they are, and nobody asks for them.
    assert make_all(run, Config()) == ["make-pseudo/labels", "eval"]
    assert "make-pseudo/refined" not in run.states(Config())


def test_settings_of_coco_count_where_the_data_are_coco(run: Run) -> None:
    config = changed(Config(), "data.dataset=coco")
    make_all(run, config)
    names = [dotted for dotted in config_io.settings() if dotted.startswith("data.coco_")]
    assert len(names) == 5
    for dotted in names:
        states = run.states(changed(config, f"{dotted}={another(dotted, config)}"))
        assert {name for name, state in states.items() if state.kind == "stale"} == set(STALE["data"]), dotted


def test_reasons_name_old_and_new(run: Run) -> None:
    make_all(run, Config())
    config = changed(Config(), "pseudo.bg_threshold=0.4", "cls.flip=false", "cam.scales=[1]", "cls.method=cam")
    assert run.state("make-pseudo/labels", config).reasons[0] == "pseudo.bg_threshold: 0.2 -> 0.4"
    reasons = run.state("train-cls", config).reasons
    assert {"cls.flip: true -> false", "cls.method: rca -> cam", "memory.size: 500 -> (not used)"} <= set(reasons)
    assert "cam.scales: [0.5, 1.0, 1.5, 2.0] -> [1.0]" in run.state("make-pseudo/cams", config).reasons


def test_going_back_makes_it_current_again(run: Run) -> None:
    make_all(run, Config())
    assert run.state("eval", changed(Config(), "cls.lr=1")).kind == "stale"
    assert run.state("eval", Config()).kind == "current"


def test_the_same_output_again_keeps_what_follows_current(run: Run) -> None:
    make_all(run, Config())
    config = changed(Config(), "pseudo.bg_threshold=0.4")
    assert make(run, "make-pseudo/labels", config)
    # All but eval, whose scores quote the setting.
    assert {step for step, kind in kinds(run, config).items() if kind != "current"} == {"eval"}
    assert run.state("eval", config).reasons == ("pseudo.bg_threshold: 0.2 -> 0.4",)
    assert make(run, "eval", config)
    assert set(kinds(run, config).values()) == {"current"}
    config = changed(Config(), "pseudo.bg_threshold=0.5")
    assert make(run, "make-pseudo/labels", config, "other labels")
    assert run.state("train-seg", config).reasons == ("input make-pseudo/labels changed",)


@pytest.mark.parametrize("contents", [{"a.txt": "same", "b.txt": "make-pseudo/labels"}, {"a.txt": "make-pseudo/labels", "c.txt": "same"}])
def test_names_count_as_much_as_contents(run: Run, contents: dict[str, str]) -> None:
    make_all(run, Config())
    digest = run.result_digest("make-pseudo/labels")
    step_dir = run.begin("make-pseudo/labels", Config(), force=True)
    assert step_dir is not None
    for name, text in contents.items():  # two contents that change places; a file that changes its name
        (step_dir.path / name).write_text(text)
    run.commit(step_dir, {})
    assert run.result_digest("make-pseudo/labels") != digest


def test_notes_of_a_run_are_no_result(run: Run) -> None:
    make_all(run, Config())
    digest = run.result_digest("train-cls")
    step_dir = run.begin("train-cls", Config(), force=True)
    assert step_dir is not None
    for name in ("log.jsonl", "last.pt", "x.tmp", ".DS_Store"):
        (step_dir.path / name).write_text(str(time.time_ns()))
    (step_dir.path / "a.txt").write_text("train-cls")
    (step_dir.path / "b.txt").write_text("same")
    run.commit(step_dir, {})
    assert run.result_digest("train-cls") == digest
    assert set(kinds(run, Config()).values()) == {"current"}


def test_an_interrupted_step_resumes_where_it_was(run: Run) -> None:
    make(run, "prepare", Config())
    first = run.begin("train-cls", Config())
    assert first is not None
    assert not first.resumed
    (first.path / "a.txt").write_text("done")
    (first.path / "b.txt.123.tmp").write_text("half")
    assert run.state("train-cls", Config()).kind == "running"
    second = run.begin("train-cls", Config())
    assert second is not None
    assert second.resumed
    assert second.fingerprint == first.fingerprint
    assert sorted(path.name for path in second.path.iterdir()) == ["a.txt", "stage.json"]


def test_half_a_record_is_no_output_to_keep(run: Run) -> None:
    """Killed while it wrote the first record of a step: nothing is put aside, and nothing is left."""
    make(run, "prepare", Config())
    run.dir("train-cls").mkdir()
    (run.dir("train-cls") / "stage.json.4000000.tmp").write_text("{")
    make(run, "train-cls", Config())
    assert not (run.root / "old").exists()
    assert not list(run.root.rglob("*.tmp"))


@pytest.mark.parametrize(("assignment", "force"), [("cls.lr=1", False), ("runtime.workers=1", True)])
def test_unfinished_output_of_other_settings_is_discarded(run: Run, assignment: str, force: bool) -> None:
    make(run, "prepare", Config())
    first = run.begin("train-cls", Config())
    assert first is not None
    (first.path / "a.txt").write_text("done")
    second = run.begin("train-cls", changed(Config(), assignment), force=force)
    assert second is not None
    assert not second.resumed
    assert [path.name for path in second.path.iterdir()] == ["stage.json"]
    assert not (run.root / "old").exists()


def test_unfinished_output_of_other_inputs_is_discarded(run: Run) -> None:
    make(run, "prepare", Config())
    first = run.begin("train-cls", Config())
    assert first is not None
    (first.path / "a.txt").write_text("made from other photos")
    make(run, "prepare", Config(), "more photos", force=True)
    assert run.state("train-cls", Config()).reasons == ("input prepare changed",)
    second = run.begin("train-cls", Config())
    assert second is not None
    assert not second.resumed
    assert [path.name for path in second.path.iterdir()] == ["stage.json"]


def test_finished_output_is_moved_away_never_deleted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make(run, "prepare", Config())
    make(run, "train-cls", Config(), "first")
    capsys.readouterr()
    make(run, "train-cls", changed(Config(), "cls.lr=1"), "second")
    assert "cls.lr: 0.01 -> 1.0" in capsys.readouterr().err
    make(run, "train-cls", Config(), "third")
    make(run, "train-cls", Config(), "fourth", force=True)
    make(run, "train-cls", Config(), "fifth", force=True)
    contents = {path.read_text() for path in run.root.rglob("a.txt")}
    assert contents == {"prepare", "first", "second", "third", "fourth", "fifth"}
    assert len(list((run.root / "old").iterdir())) == 4


def test_steps_within_a_folder_move_alone(run: Run) -> None:
    make_all(run, Config())
    make(run, "make-pseudo/labels", changed(Config(), "pseudo.bg_threshold=0.4"))
    assert run.state("make-pseudo/cams", Config()).kind == "current"
    assert [path.parent.name for path in (run.root / "old").rglob("a.txt")][0].startswith("labels-")


def test_missing_and_altered_files_are_damage_and_are_made_again(run: Run) -> None:
    make_all(run, Config())
    digest = run.result_digest("make-pseudo/labels")
    folder = run.dir("make-pseudo/labels")
    (folder / "a.txt").unlink()
    (folder / "b.txt").write_text("sa")
    state = run.state("make-pseudo/labels", Config())
    assert state.kind == "damaged"
    assert state.reasons == ("1 file missing (first: a.txt)", "1 file changed in size (first: b.txt)")
    assert run.state("train-seg", Config()).kind == "stale"
    step_dir = run.begin("make-pseudo/labels", Config())
    assert step_dir is not None
    assert step_dir.resumed
    assert [path.name for path in folder.iterdir()] == ["stage.json"]  # the altered file would else pass for finished
    (folder / "a.txt").write_text("make-pseudo/labels")
    (folder / "b.txt").write_text("same")
    run.commit(step_dir, {})
    assert run.result_digest("make-pseudo/labels") == digest
    assert set(kinds(run, Config()).values()) == {"current"}


def test_a_file_of_somebody_else_is_no_damage(run: Run) -> None:
    make_all(run, Config())
    (run.dir("make-pseudo/labels") / "notes.txt").write_text("mine")
    assert set(kinds(run, Config()).values()) == {"current"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"status": "done"}', '{"status": "done", "fingerprint": "x", "settings": 3}', "\x00", "truncated"]
)
def test_a_broken_record_stops_and_force_mends(run: Run, content: str) -> None:
    make_all(run, Config())
    path = run.dir("train-cls") / "stage.json"
    path.write_text(path.read_text()[:200] if content == "truncated" else content)
    assert run.state("train-cls", Config()).kind == "damaged"
    assert run.state("train-seg", Config()).kind == "stale"
    with pytest.raises(DataError, match=r"train-cls/stage\.json") as caught:
        run.begin("train-cls", Config())
    assert caught.value.hint == f"rca train-cls --run {run.root} --force"
    assert make(run, "train-cls", Config(), force=True)
    assert set(kinds(run, Config()).values()) == {"current"}
    assert len(list((run.root / "old").rglob("a.txt"))) == 1


def test_output_without_a_record_is_kept(run: Run) -> None:
    make_all(run, Config())
    (run.dir("train-seg") / "stage.json").unlink()
    assert run.state("train-seg", Config()).kind == "missing"
    assert make(run, "train-seg", Config())
    assert (run.root / "old" / "train-seg-unrecorded" / "a.txt").read_text() == "train-seg"


def test_order_is_enforced_with_what_to_type(run: Run) -> None:
    def complaint(step: str, config: Config) -> tuple[str, str | None]:
        with pytest.raises(StageError) as caught:
            run.begin(step, config)
        return caught.value.message, caught.value.hint

    at = f"--run {run.root}"
    voc = changed(Config(), "data.root=/my data")
    assert complaint("train-cls", voc) == ("train-cls needs the output of prepare", f"rca prepare voc --root '/my data' {at}")
    make(run, "prepare", Config())
    assert complaint("train-seg", Config()) == ("train-seg needs the output of make-pseudo", f"rca train-cls {at}")
    assert complaint("eval", Config()) == ("eval needs the output of make-pseudo", f"rca train-cls {at}")
    make(run, "train-cls", Config())
    make(run, "make-pseudo/cams", Config())
    assert complaint("train-seg", Config()) == ("train-seg needs the output of make-pseudo", f"rca make-pseudo {at}")
    make(run, "make-pseudo/labels", Config())
    stale = "train-seg needs the output of make-pseudo, which is stale (pseudo.bg_threshold: 0.2 -> 0.4)"
    assert complaint("train-seg", changed(Config(), "pseudo.bg_threshold=0.4")) == (stale, f"rca make-pseudo {at}")
    stale = "train-seg needs the output of make-pseudo, which is stale (cls.epochs: 10 -> 3)"
    assert complaint("train-seg", changed(Config(), "cls.epochs=3")) == (stale, f"rca train-cls {at}")
    assert run.begin("make-pseudo/labels", Config(), force=True)
    unfinished = "train-seg needs the output of make-pseudo, which is unfinished"
    assert complaint("train-seg", Config()) == (unfinished, f"rca make-pseudo {at}")
    with pytest.raises(StageError, match="^train-seg is missing|^the output of train-seg is missing"):
        run.require("train-seg", Config())


def test_a_refused_step_changes_nothing(run: Run) -> None:
    make_all(run, Config())
    before = files(run.root)
    with pytest.raises(StageError):
        run.begin("train-seg", changed(Config(), "cls.epochs=3"), force=True)
    assert files(run.root) == before


def test_eval_scores_what_there_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for step in ALL[:3]:
        make(run, step, Config())
    step_dir = run.begin("eval", Config())
    assert step_dir is not None
    assert step_dir.inputs == ("prepare", "make-pseudo/cams")
    run.commit(step_dir, {})
    make(run, "make-pseudo/labels", Config())
    assert run.state("eval", Config()).reasons == ("input make-pseudo/labels changed",)
    make(run, "train-seg", Config())
    make(run, "eval", Config())
    assert set(kinds(run, Config()).values()) == {"current"}
    # Labels are made again: the network trained on the old ones is left out, with a warning.
    config = changed(Config(), "pseudo.bg_threshold=0.4")
    make(run, "make-pseudo/labels", config, "other")
    capsys.readouterr()
    step_dir = run.begin("eval", config)
    assert step_dir is not None
    assert step_dir.inputs == ("prepare", "make-pseudo/cams", "make-pseudo/labels")
    assert "leaves out train-seg" in capsys.readouterr().err
    run.commit(step_dir, {})
    assert run.state("eval", config).kind == "current"


def test_eval_does_not_score_what_the_settings_no_longer_say(run: Run) -> None:
    make_all(run, Config())
    with pytest.raises(StageError, match=r"eval needs the output of train-seg, which is stale \(seg.lr: 0.00025 -> 1.0\)"):
        run.begin("eval", changed(Config(), "seg.lr=1"))
    (run.dir("make-pseudo/cams") / "a.txt").unlink()
    with pytest.raises(StageError, match="eval needs the output of make-pseudo, which is damaged"):
        run.begin("eval", Config())


def test_eval_of_what_was_there_is_not_current_once_there_is_more(run: Run) -> None:
    for step in (*ALL[:3], "eval"):
        make(run, step, Config())
    make(run, "make-pseudo/labels", Config())
    assert run.state("eval", Config()).kind == "stale"
    assert run.state("eval", changed(Config(), "pseudo.bg_threshold=0.4")).reasons == ("pseudo.bg_threshold: 0.2 -> 0.4",)


def test_outside_files_count_by_content(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"one")
    config = changed(Config(), f"cls.weights={weights}")
    make_all(run, config)
    weights.rename(tmp_path / "b.pth")
    moved = changed(Config(), f"cls.weights={tmp_path / 'b.pth'}")
    assert set(kinds(run, moved).values()) == {"current"}
    assert set(kinds(run, config).values()) == {"current"}  # gone since: nothing says that it changed
    (tmp_path / "b.pth").write_bytes(b"two")
    reason = run.state("train-cls", moved).reasons[0]
    assert reason.startswith("cls.weights: sha256:")
    assert hashlib.sha256(b"one").hexdigest()[:12] in reason
    assert run.state("prepare", moved).kind == "current"
    assert run.state("train-cls", changed(Config(), "cls.weights=none")).kind == "stale"


def test_a_tag_file_counts_by_content_wherever_the_data_are(run: Run, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tags.txt").write_text("a cat")
    config = changed(Config(), f"data.root={tmp_path / 'here'}", "data.tags=tags.txt")
    make_all(run, config)
    moved = changed(config, f"data.root={tmp_path / 'there'}")
    assert set(kinds(run, moved).values()) == {"current"}
    (tmp_path / "there" / "tags.txt").write_text("a dog")
    assert run.state("prepare", moved).kind == "stale"


def test_settings_are_written_only_when_they_differ(run: Run) -> None:
    run.write_config(Config())
    before = files(run.root)
    run.write_config(run.read_config())
    assert files(run.root) == before
    run.write_config(changed(Config(), "seed=3"))
    assert run.read_config().seed == 3


def test_no_run_here(run: Run) -> None:
    with pytest.raises(StageError, match="no run here") as caught:
        run.read_config()
    assert caught.value.hint == f"rca prepare voc --root DIR --run {run.root}"
    assert not run.root.exists()


def test_a_run_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be written"), Run(tmp_path / "file").lock():
        pass


HOLDER = """
import os, signal, sys, time
from pathlib import Path
from rcatool.run import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    {then}
"""


def hold(run: Run, then: str) -> subprocess.Popen[bytes]:
    """A process that has taken the run's lock and does `then`."""
    command = [sys.executable, "-c", HOLDER.format(then=then), str(run.root)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
    return holder


def test_only_one_process_writes_and_a_crash_frees_the_run(run: Run) -> None:
    holder = hold(run, "time.sleep(60)")
    try:
        with pytest.raises(StageError, match=f"in use by process {holder.pid}"), run.lock():
            pass
        assert set(kinds(run, Config()).values()) == {"missing"}  # looking needs no lock
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run.lock():
        assert (run.root / ".lock").read_text() == str(os.getpid())
    with run.lock():
        pass


def test_a_lock_that_children_of_a_killed_command_hold_is_waited_for(run: Run) -> None:
    # A forked child inherits the lock, and may live a little longer than its parent.
    holder = hold(run, "time.sleep(1.5) if os.fork() == 0 else os.kill(os.getpid(), signal.SIGKILL)")
    assert holder.wait() == -signal.SIGKILL
    with run.lock():
        assert (run.root / ".lock").read_text() == str(os.getpid())


def test_children_that_do_not_end_are_not_mistaken_for_their_parent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_ORPHANS", 0.2)
    holder = hold(run, "time.sleep(3) if os.fork() == 0 else os.kill(os.getpid(), signal.SIGKILL)")
    holder.wait()
    with pytest.raises(StageError, match=f"in use by process {holder.pid}") as caught, run.lock():
        pass
    assert str(caught.value.hint).endswith("try again in a minute")  # and not to kill a process that is no more


def test_the_record_says_what_made_it(run: Run) -> None:
    make(run, "prepare", Config())
    make(run, "train-cls", Config())
    record = json.loads((run.dir("train-cls") / "stage.json").read_text())
    assert record["status"] == "done"
    assert record["settings"]["cls.lr"] == 0.01
    assert "runtime.workers" not in record["settings"]
    assert record["inputs"] == {"prepare": run.result_digest("prepare")}
    assert record["inventory"] == {"files": 2, "bytes": len("train-cls") + len("same"), "sizes": {"a.txt": 9, "b.txt": 4}}
    assert record["info"]["photos"] == 2
    highest = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    assert record["info"]["peak_memory_mib"] >= int(highest) - 1  # of this process, or of a worker that took more
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_memory_of_who_started_a_process_is_not_its_own() -> None:
    big = bytearray(os.urandom(1) * (400 * 2**20))  # noqa: F841
    code = "from rcatool.results import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert 5 < int(done.stdout) < 300


# A model of the whole: what each step's output is, as a pure function of the settings.
KNOBS = {
    "train-cls": "cls.epochs",
    "make-pseudo/cams": "cam.stride",
    "make-pseudo/labels": "pseudo.crf_iterations",
    "train-seg": "seg.epochs",
}
ACTIONS = st.tuples(st.sampled_from(sorted(KNOBS)), st.integers(1, 2), st.sampled_from(["make", "stop", "set"]))


def ideal(step: str, config: Config) -> str:
    """What `step` would hold, were everything made afresh."""
    knob = config_io.get(config, KNOBS[step]) if step in KNOBS else ""
    this = in_force(config)[step]
    inputs = [ideal(name, config) for name in (*this.inputs, *this.optional_inputs)]
    return hashlib.sha256(repr((step, knob, inputs)).encode()).hexdigest()


@settings(max_examples=20, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=12))
def test_current_means_what_a_fresh_run_would_give(tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, str]]) -> None:
    run, config = Run(tmp_path_factory.mktemp("model")), Config()
    for step in ALL:
        make(run, step, config, ideal(step, config))
    for step, value, action in actions:
        config = changed(config, f"{KNOBS[step]}={value}")
        for name in ALL[: ALL.index(step) + 1] if action != "set" else ():
            step_dir = run.begin(name, config)
            if step_dir is not None and not (action == "stop" and name == step):
                (step_dir.path / "a.txt").write_text(ideal(name, config))
                run.commit(step_dir, {})
    open_upstream = False  # what a step that is not current will give, nobody knows: what follows it cannot be current
    for name in ALL[:-1]:
        state, path = run.state(name, config), run.dir(name) / "a.txt"
        open_upstream |= state.kind == "running"
        is_ideal = path.exists() and path.read_text() == ideal(name, config)
        assert state.is_current == (is_ideal and not open_upstream), name
        open_upstream |= not state.is_current
