"""The command line: exit codes, messages, what is written and what is not. The stages here are stand-ins without torch."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Result
from PIL import Image
from typer.main import get_command

from rcatool import workflow
from rcatool.cli import main
from rcatool.commands import app
from rcatool.config import Config
from rcatool.errors import TrainingError
from rcatool.run import Run
from rcatool.steps import in_force

Rca = Callable[..., Result]
REPOSITORY = Path(__file__).parents[1]
METRICS = {
    "cam": {"miou": 0.5, "list": "train", "images": 4, "threshold": 0.25, "oracle": True, "iou": {"background": 0.75, "ring": 0.25}},
    "seg": {"miou": 0.375, "list": "val", "images": 2, "threshold": None, "iou": {"background": 0.75, "ring": None}},
}
SMALL = ("--set", "data.shapes_train=6", "--set", "data.shapes_val=2", "--set", "data.shapes_size=32", "--set", "runtime.workers=1")


class Stages:
    """Stand-ins for the stages: they write one file per step, and do what a test asks for in between."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Config]] = []
        self.before: dict[str, Callable[[], object]] = {}

    def main_of(self, word: str) -> Callable[..., None]:
        def stage(run: Run, config: Config, *, force: bool = False) -> None:
            self.calls.append((word, config))
            for step in [step.name for step in in_force(config).values() if step.word == word]:
                step_dir = run.begin(step, config, force=force)
                if step_dir is not None:
                    self.before.get(word, lambda: None)()
                    (step_dir.path / "a.txt").write_text(step_dir.fingerprint)
                    if word == "eval":
                        (step_dir.path / "metrics.json").write_text(json.dumps(METRICS))
                    run.commit(step_dir, {})

        return stage

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.calls]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stand_ins = Stages()
    for word in workflow.AFTER_PREPARE:
        name = f"rcatool.stages.{word.replace('-', '_')}"
        module = ModuleType(name)
        module.main = stand_ins.main_of(word)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return stand_ins


@pytest.fixture
def prepared(rca: Rca, stages: Stages, tmp_path: Path) -> Path:
    """A run of a few generated images."""
    run = tmp_path / "r"
    assert rca("prepare", "shapes", "--run", run, *SMALL).code == 0
    return run


@pytest.fixture
def finished(rca: Rca, prepared: Path, stages: Stages) -> Path:
    """A run with every step done."""
    assert rca("run", "--run", prepared).code == 0
    stages.calls.clear()
    return prepared


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")}


# ---- help, and mistakes in typing


def test_help_names_every_command_and_loads_no_torch() -> None:
    slow = {"torch", "pydantic", "yaml", "numpy"}
    code = f"import sys; from rcatool.cli import main; main(['--help']); print(sorted(set(sys.modules) & {slow}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    words = "prepare train-cls make-pseudo train-seg eval predict score compare run demo export inspect settings report show status doctor"
    for word in words.split():
        assert re.search(rf"\b{word}\b", done.stdout)


def test_version_and_bare_command(rca: Rca) -> None:
    assert re.fullmatch(r"rca \d+\.\d+\.\d+\n", rca("--version").out)
    assert "Usage: rca" in rca().out
    assert rca().code == 0


def test_module_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "rcatool", "trian-cls"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error: no such command 'trian-cls'" in done.stderr


SHARED = {"--run", "--set", "--force", "--device", "--quiet", "--debug"}
EXPORT = {"--run", "--what", "--labels", "--images", "--out", "--force", "--quiet", "--debug"}
OPTIONS = {
    "prepare": {"--verify", "--run", "--set", "--quiet", "--debug", "--json"},
    "prepare voc": SHARED
    | {"--root", "--train-list", "--val-list", "--tune-list", "--test-list", "--tags", "--sbd", "--sbd-out", "--download"}
    | {"--config", "--json"},
    "prepare coco": SHARED
    | {"--root", "--variant", "--overlap", "--crowd", "--photos", "--tune-fraction", "--masks", "--masks-out", "--config", "--json"},
    "prepare folder": SHARED | {"--images", "--tags", "--masks", "--val-fraction", "--tune-fraction", "--config", "--json"},
    "prepare shapes": SHARED | {"--root", "--seed", "--config", "--json"},
    "import-cams": (SHARED - {"--device"}) | {"--format", "--first-class", "--allow-missing", "--json"},
    "train-cls": SHARED | {"--procs", "--json"},
    "make-pseudo": SHARED | {"--procs", "--json"},
    "train-seg": SHARED | {"--procs", "--json"},
    "eval": SHARED | {"--procs", "--reference", "--json"},
    "score": {"--classes", "--list", "--allow-missing", "--against", "--boundary", "--breakdown", "--workers"}
    | {"--json", "--quiet", "--debug"},
    "compare": {"--target", "--json", "--debug"},
    "run": SHARED | {"--procs", "--json"},
    "demo": SHARED | {"--json"},
    "export": set(),
    "export voc-server": EXPORT | {"--list", "--comp", "--partial"},
    "export coco": EXPORT | {"--classes", "--regions", "--min-area"},
    "export labelme": EXPORT | {"--classes", "--tolerance", "--min-area"},
    "export yolo": EXPORT | {"--classes", "--tolerance", "--min-area", "--photos"},
    "export png": EXPORT | {"--classes", "--rgb"},
    "export network": {"--run", "--out", "--force", "--quiet", "--debug"},
    "export onnx": {"--run", "--out", "--force", "--quiet", "--debug", "--json"},
    "export cams": {"--run", "--format", "--out", "--force", "--quiet", "--debug"},
    "predict": (SHARED - {"--set"}) | {"--out", "--model", "--scale", "--tile", "--overlap", "--flip", "--crf", "--overlay", "--json"},
    "inspect": set(),
    "inspect memory": {"--run", "--class", "--photos", "--out", "--force", "--device", "--quiet", "--debug", "--json"},
    "report": {"--run", "--compare", "--out", "--force", "--quiet", "--debug"},
    "inspect tags": {"--run", "--most", "--json", "--quiet", "--debug"},
    "show": {"--run", "--out", "--predict", "--force", "--quiet", "--debug"},
    "status": {"--run", "--json", "--debug"},
    "doctor": {"--run", "--json", "--debug"},
    "convert-weights": {"--debug", "--json"},
    "settings": {"--markdown", "--json", "--debug"},
    "tensorboard": {"--run", "--out", "--json", "--debug"},
    "bench": {"--run", "--out", "--seconds", "--set", "--device", "--quiet", "--debug", "--json"},
}


def test_commands_and_options_are_these() -> None:
    # People write scripts against these names: a new one belongs here, a changed one in the changelog.
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for inner, leaf in {"": command, **getattr(command, "commands", {})}.items():
            assert "Example: rca" in leaf.help
            options = {option for parameter in leaf.params for option in parameter.opts if option.startswith("--")}
            found[f"{name} {inner}".strip()] = options - {"--help"}
    assert found == OPTIONS


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("trian-cls", "no such command 'trian-cls'", "did you mean train-cls"),
        ("prepare vox", "no such command 'vox'", "did you mean voc?"),
        ("train-cls --rnu x", "no such option: --rnu", "did you mean --run"),
        ("train-cls --zzzz", "no such option: --zzzz", "rca train-cls --help"),
        ("train-cls --run", "requires an argument", "--help"),
        ("prepare", "missing command", "rca prepare --help"),
        ("prepare voc", "missing option '--root'", "rca prepare voc --help"),
        ("prepare folder --images x", "missing option '--tags'", "rca prepare folder --help"),
        ("prepare shapes --seed x", "--seed", "rca prepare shapes --help"),
        ("eval extra", "unexpected extra argument", "rca eval --help"),
        ("prepare shapes --config shape", "no preset 'shape'", "did you mean shapes?"),
        ("prepare shapes --config nothing.yaml", "nothing.yaml: cannot be read", ""),
        ("prepare shapes --set cls.lrr=1", "unknown setting: cls.lrr", "did you mean cls.lr?"),
        ("prepare shapes --seed -1", "data.shapes_seed: expected at least 0, got -1", ""),
    ],
)
def test_mistakes_in_typing_are_one_line_and_a_hint(rca: Rca, tmp_path: Path, line: str, message: str, hint: str) -> None:
    code, out, err = rca(*line.split())
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) <= 2
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert hint == "" or (lines[1].startswith("hint: ") and hint in lines[1])
    assert list(tmp_path.iterdir()) == []


# ---- prepare


def test_prepare_writes_settings_with_the_preset_and_absolute_paths(prepared: Path) -> None:
    config = Run(prepared).read_config()
    assert config.data.dataset == "shapes"
    assert config.data.root == str(prepared.absolute() / "shapes")
    assert (config.cls.backbone, config.pseudo.crf) == ("tiny", "none")
    assert Run(prepared).state("prepare", config).kind == "current"


def test_precedence(rca: Rca, prepared: Path, tmp_path: Path) -> None:
    def settings() -> tuple[int, int, str]:
        config = Run(prepared).read_config()
        return config.cls.epochs, config.seg.epochs, config.cls.backbone

    preset = settings()
    assert rca("prepare", "shapes", "--run", prepared, "--set", "cls.epochs=3").code == 0
    assert settings() == (3, preset[1], "tiny")  # --set over the run's settings, the rest stays
    (tmp_path / "mine.yaml").write_text("cls: {epochs: 5, backbone: vgg16}\n")
    assert rca("prepare", "shapes", "--run", prepared, "--config", "mine.yaml", "--set", "seg.epochs=4", *SMALL).code == 0
    assert settings() == (5, 4, "vgg16")  # --config replaces the run's settings, --set wins over it
    assert Run(prepared).read_config().cls.crop_size == Config().cls.crop_size


def test_a_data_set_that_cannot_be_used_leaves_the_settings(rca: Rca, finished: Path) -> None:
    before = (finished / "config.yaml").read_bytes()
    code, _, err = rca("prepare", "voc", "--root", "nowhere", "--run", finished)
    assert (code, (finished / "config.yaml").read_bytes()) == (2, before)
    assert "nowhere" in err
    assert rca("run", "--run", finished).code == 0


def test_prepare_folder_stores_paths_that_can_move(rca: Rca, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (40, 32), (len(name), ord(name), 0)).save(tmp_path / "photos" / f"{name}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (40, 32), 1).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "tags.csv").write_text("image,tags\na.png,cat\nb.png,cat\n")
    assert rca("prepare", "folder", "--images", "photos", "--tags", "tags.csv", "--masks", "masks", "--run", "r").code == 0
    data = Run(tmp_path / "r").read_config().data
    assert (data.root, data.images, data.masks, data.tags) == (str(tmp_path), "photos", "masks", str(tmp_path / "tags.csv"))
    assert rca("prepare", "folder", "--images", "photos", "--tags", "tags.csv", "--run", "s").code == 0
    data = Run(tmp_path / "s").read_config().data
    assert (tmp_path / data.root / data.images, data.masks) == (tmp_path / "photos", "")


# ---- the steps


def test_settings_hold_for_later_commands_and_device_does_not(rca: Rca, prepared: Path, stages: Stages) -> None:
    assert rca("train-cls", "--run", prepared, "--set", "cls.lr=1e-3", "--device", "cpu").code == 0
    assert stages.calls[0][1].runtime.device == "cpu"
    assert rca("make-pseudo", "--run", prepared).code == 0
    config = stages.calls[1][1]
    assert (config.cls.lr, config.runtime.device) == (0.001, "auto")


def test_weights_by_path_are_kept_whole(rca: Rca, prepared: Path, stages: Stages, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"w")
    assert rca("train-cls", "--run", prepared, "--set", "cls.weights=w.pth", "--set", "seg.weights=./missing.pth").code == 0
    config = Run(prepared).read_config()
    assert (config.cls.weights, config.seg.weights) == (str(tmp_path / "w.pth"), str(tmp_path / "missing.pth"))


def test_run_does_what_is_missing_then_what_is_stale(rca: Rca, prepared: Path, stages: Stages) -> None:
    assert rca("train-cls", "--run", prepared).code == 0
    assert rca("run", "--run", prepared).code == 0
    assert stages.words == ["train-cls", "make-pseudo", "train-seg", "eval"]
    stages.calls.clear()
    assert rca("run", "--run", prepared, "--set", "seg.lr=1").code == 0
    assert stages.words == ["train-seg", "eval"]


def test_run_force_does_everything_again_and_keeps_the_old(rca: Rca, finished: Path, stages: Stages) -> None:
    assert rca("run", "--run", finished, "--force").code == 0
    assert stages.words == list(workflow.AFTER_PREPARE)
    assert len(list((finished / "old").rglob("a.txt"))) == 5


@pytest.mark.parametrize("word", ["run", "train-cls", "make-pseudo", "train-seg", "eval"])
def test_nothing_to_do_writes_nothing(rca: Rca, finished: Path, stages: Stages, word: str) -> None:
    before = snapshot(finished)
    code, _, err = rca(word, "--run", finished)
    assert code == 0
    assert "up to date" in err
    assert snapshot(finished) == before
    assert stages.calls == []


def test_run_with_nothing_to_do_says_so_and_loads_no_torch(finished: Path) -> None:
    code = (
        "import sys; from rcatool.cli import main; code = main(['run', '--run', sys.argv[1]]);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    before = snapshot(finished)
    done = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert "everything is up to date" in done.stderr
    assert snapshot(finished) == before


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("make-pseudo", "make-pseudo needs the output of train-cls", "rca train-cls --run r"),
        ("train-seg", "train-seg needs the output of make-pseudo", "rca train-cls --run r"),
        ("eval", "eval needs the output of make-pseudo", "rca train-cls --run r"),
        ("run --set data.shapes_seed=5", "run needs the output of prepare, which is stale (data.shapes_seed: 0 ->", "rca prepare shapes"),
        ("train-cls --run nowhere", "nowhere: no run here (no config.yaml)", "rca prepare voc --root DIR --run nowhere"),
        ("run --run nowhere", "nowhere: no run here", "rca prepare"),
        ("status --run nowhere", "nowhere: no run here", "rca prepare"),
    ],
)
def test_wrong_order(rca: Rca, prepared: Path, stages: Stages, line: str, message: str, hint: str) -> None:
    words = line.split()
    code, out, err = rca(*words, *([] if "--run" in words else ["--run", "r"]))
    assert (code, out) == (4, "")
    assert f"error: {message}" in err
    assert f"hint: {hint}" in err
    assert stages.calls == []


def test_a_setting_of_an_earlier_step_stops_a_later_one(rca: Rca, finished: Path, stages: Stages) -> None:
    code, _, err = rca("train-seg", "--run", finished, "--set", "pseudo.bg_threshold=0.4")
    assert code == 4
    assert re.search(r"make-pseudo, which is stale \(pseudo\.bg_threshold: [\d.]+ -> 0\.4\)", err)
    # The new value is in force, so the command that the hint names does what it should.
    assert rca("make-pseudo", "--run", finished).code == 0
    assert stages.words == ["make-pseudo"]


def test_environment_names_the_run(rca: Rca, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_RUN", str(prepared))
    assert json.loads(rca("status", "--json").out)["run"] == str(prepared)


def test_the_default_run(rca: Rca, stages: Stages, tmp_path: Path) -> None:
    assert rca("prepare", "shapes", *SMALL).code == 0
    assert (tmp_path / "runs" / "default" / "config.yaml").is_file()


def test_demo_is_the_whole_pipeline(rca: Rca, stages: Stages, tmp_path: Path) -> None:
    code, out, _ = rca("demo", *SMALL)
    assert code == 0
    assert stages.words == list(workflow.AFTER_PREPARE)
    assert "50.0" in out
    assert out.splitlines()[-2:] == ["results: runs/demo/eval/metrics.json", "to look at: runs/demo/report.html"]
    stages.calls.clear()
    assert rca("demo").code == 0
    assert stages.calls == []


# ---- results


def test_eval_prints_tables_of_the_scores(rca: Rca, finished: Path) -> None:
    out = rca("eval", "--run", finished).out
    cells = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in out.splitlines() if "│" in line]
    assert ["CAMs", "50.0", "train", "4", "0.25 (oracle)"] in cells
    assert ["segmentation network", "37.5", "val", "2", ""] in cells
    assert ["ring", "25.0", "-"] in cells


@pytest.mark.parametrize("word", ["eval", "run"])
def test_json_is_all_there_is_on_stdout(rca: Rca, prepared: Path, word: str) -> None:
    assert rca("run", "--run", prepared).code == 0
    assert json.loads(rca(word, "--run", prepared, "--json").out) == METRICS
    assert json.loads(rca(word, "--run", prepared, "--json", "--force").out) == METRICS


def test_status(rca: Rca, prepared: Path) -> None:
    rca("train-cls", "--run", prepared)
    before = snapshot(prepared)
    document = json.loads(rca("status", "--run", "r", "--json").out)
    assert [step["state"] for step in document["steps"]] == ["current", "current", "missing", "missing", "missing", "missing"]
    assert document["next"] == "rca make-pseudo --run r"
    code, out, _ = rca("status", "--run", "r")
    assert code == 0
    assert "next: rca make-pseudo --run r" in out
    assert snapshot(prepared) == before


def test_status_of_a_broken_record(rca: Rca, finished: Path) -> None:
    (finished / "train-seg" / "stage.json").write_text("{")
    document = json.loads(rca("status", "--run", finished, "--json").out)
    assert [step["state"] for step in document["steps"]][4:] == ["damaged", "stale"]
    code, _, err = rca("train-seg", "--run", finished)
    assert code == 3
    assert f"hint: rca train-seg --run {finished} --force" in err
    assert rca("train-seg", "--run", finished, "--force").code == 0
    assert rca("run", "--run", finished).code == 0


def test_broken_scores(rca: Rca, finished: Path) -> None:
    path = finished / "eval" / "metrics.json"
    path.write_text("x" * path.stat().st_size)  # same size, so nothing else can notice
    code, _, err = rca("eval", "--run", finished)
    assert code == 3
    assert "metrics.json: not valid JSON" in err


# ---- what goes wrong on the way


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


class FakeOutOfMemoryError(RuntimeError):
    """What torch raises; importing torch for it would take seconds."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingError("loss is not finite at step 3"), 5, "error: loss is not finite at step 3"),
        (MemoryError(), 6, "error: train-cls: out of memory\nhint: try a smaller cls.batch_size"),
        (FakeOutOfMemoryError("CUDA: tried to allocate"), 6, "error: train-cls: out of memory\nhint: try a smaller cls.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 6, "error: train-cls: out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 6, "error: train-cls: a process that reads photos died"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), 6, "error: train-cls: a process that reads photos died"),
        (RuntimeError("x_cuda does not have a deterministic implementation, but"), 6, "error: train-cls: x_cuda has no deterministic"),
        (OSError(errno.ENOSPC, "No space left on device", "x.pt"), 6, "error: x.pt: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x.pt"), 6, "error: x.pt: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "x.pt"), 6, "error: x.pt: Read-only file system"),
        (KeyboardInterrupt(), 130, "error: stopped; run the same command to resume"),
    ],
)
def test_failures_within_a_stage(
    rca: Rca, prepared: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    torch = ModuleType("torch")
    torch.OutOfMemoryError = FakeOutOfMemoryError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    stages.before["train-cls"] = raising(error)
    result = rca("train-cls", "--run", prepared)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err
    assert message.splitlines()[0] in (prepared / "run.log").read_text()
    assert Run(prepared).state("train-cls", Run(prepared).read_config()).kind == "running"
    stages.before.clear()
    assert rca("run", "--run", prepared).code == 0


def test_kill_is_as_good_as_ctrl_c(rca: Rca, prepared: Path, stages: Stages) -> None:
    stages.before["train-cls"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    code, _, err = rca("train-cls", "--run", prepared)
    assert code == 130
    assert "stopped; run the same command to resume" in err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_bugs_show_themselves(rca: Rca, prepared: Path, stages: Stages) -> None:
    stages.before["train-cls"] = raising(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["train-cls", "--run", str(prepared)])
    stages.before["train-cls"] = raising(RuntimeError("Caught RuntimeError in DataLoader worker process 0."))
    with pytest.raises(RuntimeError, match="DataLoader"):
        main(["train-cls", "--run", str(prepared)])


def test_debug_shows_the_traceback(rca: Rca, prepared: Path) -> None:
    assert "Traceback" in rca("train-seg", "--run", prepared, "--debug").err
    assert "Traceback" not in rca("train-seg", "--run", prepared).err


def test_quiet(rca: Rca, prepared: Path) -> None:
    assert rca("run", "--run", prepared, "--quiet").err == ""
    assert "done" in (prepared / "run.log").read_text()


def test_two_commands_on_one_run(rca: Rca, prepared: Path, stages: Stages) -> None:
    with Run(prepared).lock():
        code, _, err = rca("train-cls", "--run", prepared)
        assert code == 4
        assert f"in use by process {os.getpid()}" in err
        assert rca("status", "--run", prepared).code == 0


def test_some_commands_refuse_several_processes(rca: Rca, prepared: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.calls.clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = rca("prepare", "shapes", "--run", prepared, "--force", *SMALL)
    assert code == 6
    assert "this command works in a single process" in err
    assert stages.calls == []


def test_several_processes_are_checked_before_they_start(rca: Rca, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "launch", lambda *arguments: pytest.fail("nothing may be started"))
    assert rca("make-pseudo", "--run", prepared, "--procs", "2").code == 4  # train-cls lacks
    assert rca("train-cls", "--run", prepared, "--procs", "0").code == 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert rca("eval", "--run", prepared, "--procs", "2", "--set", "cls.lrr=1").code == 2


def test_a_command_with_nothing_to_do_starts_no_processes(rca: Rca, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "launch", lambda *arguments: pytest.fail("nothing may be started"))
    for word in (*workflow.AFTER_PREPARE, "run"):
        assert rca(word, "--run", finished, "--procs", "2").code == 0


def test_a_file_as_run_directory(rca: Rca, stages: Stages, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert rca("train-cls", "--run", "file").code == 4
    code, _, err = rca("prepare", "shapes", "--run", "file", *SMALL)
    assert code == 6
    assert "cannot be written" in err
    assert rca("prepare", "shapes", "--run", "x" * 300, *SMALL).code == 6


@pytest.mark.parametrize("content", ["cls: {lr: fast}", "cls: [", "\x00"])
def test_settings_broken_by_hand(rca: Rca, finished: Path, content: str) -> None:
    (finished / "config.yaml").write_text(content)
    for line in (["run"], ["status"], ["eval"], ["prepare", "shapes"]):
        code, _, err = rca(*line, "--run", finished)
        assert code == 2
        assert "config.yaml" in err
    assert rca("prepare", "shapes", "--run", finished, "--config", "shapes", *SMALL).code == 0
    assert rca("run", "--run", finished).code == 0


def test_the_log_tells_what_was_done(prepared: Path, rca: Rca) -> None:
    rca("train-cls", "--run", prepared)
    lines = [line[20:] for line in (prepared / "run.log").read_text().splitlines()]
    assert lines[0].startswith("$ rca")
    assert sum(line.startswith("$ ") for line in lines) == 2
