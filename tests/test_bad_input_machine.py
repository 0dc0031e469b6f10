"""What a machine can lack: disk, memory, libraries, network, weights, a run of one's own; and training that goes wrong."""

import errno
import importlib.util
import os
import pickle
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broken import Break, Case, Rca, change_checkpoint, check, check_answer, cut, remove, set_up, table, undo, unfinished, write
from conftest import REPOSITORY
from tiny_run import TinyRun, digests

CLS, LAST = "run/train-cls/final.pt", "run/train-cls/last.pt"


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


# ---- weights and checkpoints to go on from


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("hacked", "w")


def weights(change: Callable[[dict[str, Any]], object] = lambda state: None) -> Break:
    """Write w.pth, the weights of a backbone, changed."""

    def broken() -> None:
        import torch

        from rcatool.models.backbones import build_backbone

        state = build_backbone("tiny", output_stride=8).body.state_dict()
        change(state)
        torch.save(dict(state), "w.pth")

    return broken


def first_weight(state: dict[str, Any]) -> str:
    return next(iter(state))


TRAIN = "train-cls --set cls.weights=w.pth"


@table(
    Case("weights missing", (), TRAIN, 3, r"w\.pth: no such file", "imagenet, none, or the path of a state dict"),
    Case("weights mistyped", (), "train-cls --set cls.weights=imagnet", 3, "imagnet: no such file", "imagenet, none, or the path of a state dict"),
    Case("weights empty", (write("w.pth"),), TRAIN, 3, r"w\.pth: not a readable checkpoint"),
    Case("weights cut short", (weights(), cut("w.pth")), TRAIN, 3, r"w\.pth: not a readable checkpoint"),
    Case("weights that run code", (write("w.pth", pickle.dumps(_Hostile(), protocol=2)),), TRAIN, 3, r"w\.pth: not a readable checkpoint .*more than tensors"),
    Case("weights that run code, newer", (write("w.pth", pickle.dumps({"a": _Hostile()})),), TRAIN, 3, r"w\.pth: not a readable checkpoint .*more than tensors"),
    Case("weights of text", (write("w.pth", "version https://git-lfs.github.com/spec/v1\n"),), TRAIN, 3, r"w\.pth: not a readable checkpoint"),
    Case("weights in a folder", (write("w.pth/data.pkl"),), TRAIN, 3, r"w\.pth: cannot be read \(Is a directory\)"),
    Case("weights of another network", (weights(),), TRAIN + " --set cls.backbone=mobilenet_v2", 3, r"w\.pth: these weights lack features\.0\.0\.weight.* and \d+ more", "belongs to this backbone"),
    Case("weights with one too few", (weights(lambda state: state.pop(first_weight(state))),), TRAIN, 3, r"these weights lack features\.0\.weight$", "belongs to this backbone"),
    Case("weights with one too many", (weights(lambda state: state.update(extra=state[first_weight(state)])),), TRAIN, 3, "these weights have unknown extra$", "belongs to this backbone"),
    Case("weights of another shape", (weights(lambda state: state.update({first_weight(state): state[first_weight(state)][:5]})),), TRAIN, 3, r"wrong shape for features\.0\.weight \(5, 3, 3, 3\), expected \(24, 3, 3, 3\)", "belongs"),
    Case("weights with NaN", (weights(lambda state: state[first_weight(state)].fill_(float("nan"))),), TRAIN, 3, r"w\.pth: features\.0\.weight holds numbers that are not finite"),
    Case("weights that are no tensors", (weights(lambda state: state.update(epoch=3)),), TRAIN, 3, r"w\.pth: not a state dict"),
    Case("safetensors garbage", (write("w.safetensors", b"\xff" * 99),), "train-cls --set cls.weights=w.safetensors", 3, r"not a readable safetensors file"),
    Case("no weights for the smallest network", (undo("train-cls"),), "train-cls --set cls.weights=imagenet", 6, "no ImageNet weights for the backbone `tiny`", "cls.weights=none"),
    Case("training state garbage", (unfinished("train-cls"), remove(CLS), write(LAST, "x" * 99)), "train-cls", 3, r"train-cls/last\.pt: not a readable checkpoint", "delete it, or .*--force"),
    Case("training state of another kind", (unfinished("train-cls"), lambda: Path(CLS).rename(LAST)), "train-cls", 3, r"train-cls/last\.pt: not a checkpoint of this training", "delete it, or .*--force"),
    Case("training state of another network", (unfinished("train-cls"), remove(CLS), change_checkpoint("run/train-seg/final.pt", lambda state: state.update(optimizer={}, epoch=1)), lambda: Path("run/train-seg/final.pt").rename(LAST)), "train-cls", 3, r"last\.pt: not a checkpoint of this training", "delete it"),
    Case("learning rate absurd", (), "run --set cls.lr=1e9", 5, r"the loss is not finite at step \d+ \(loss=nan", "lower the learning rates"),
    Case("learning rate absurd, of the second network", (), "train-seg --set seg.lr=1e9 --set seg.head_lr=1e9", 5, r"the loss is not finite at step \d+ \(loss=(nan|inf)\)", "lower the learning rates"),
    Case("photos larger than memory", (), "train-cls --set cls.resize_long=[1000000000,1000000000]", 6, "train-cls: out of memory", "smaller cls.batch_size or cls.crop_size"),
)  # fmt: skip
def test_weights_and_training(rca: Rca, case: Case) -> None:
    check(rca, case)
    assert not Path("hacked").exists()


def test_weights_that_cannot_be_downloaded(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    line = "train-cls --set cls.backbone=mobilenet_v2 --set cls.weights=imagenet"
    check(rca, Case("offline", (), line, 6, "the ImageNet weights of mobilenet_v2 could not be downloaded .*no route to host", r"put https://.*\.pth at .*--set cls\.weights=PATH"))


def test_weights_half_downloaded(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    name = Path(torchvision.models.get_model_weights("mobilenet_v2").IMAGENET1K_V1.url).name
    cached = f"torch-home/hub/checkpoints/{name}"
    line = "train-cls --set cls.backbone=mobilenet_v2 --set cls.weights=imagenet"
    check(rca, Case("half a file", (write(cached, "half"),), line, 3, f"{name}: not a readable checkpoint", "delete it, and it is downloaded again"))


# ---- libraries


def test_no_library_for_the_crf(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pydensecrf" else find(name, *rest))
    case = Case("no CRF", (undo("make-pseudo/cams"),), "make-pseudo --set pseudo.crf=seed", 6, "needs the library pydensecrf, which is not installed", r"--set pseudo\.crf=none")
    check(rca, case)
    assert not Path("run/make-pseudo/cams").exists()  # known before hours of work, not after
    assert rca("make-pseudo", "--set", "pseudo.crf=none").code == 0


def test_a_library_that_does_not_load(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rcatool.stages.train_seg", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    check(rca, Case("no torch", (undo("train-seg"),), "train-seg", 6, "train-seg: a library does not load .*torch", "rca doctor"))


# ---- disk


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let files whose path contains `name` be written to a disk that is full."""
    from rcatool import files

    def opened(path: Path, mode: str, **options: Any) -> Any:
        return open("/dev/full" if name in str(path) and "w" in mode else path, mode, **options)

    monkeypatch.setattr(files, "open", opened, raising=False)


@pytest.mark.parametrize(
    ("line", "step", "name"),
    [
        ("prepare shapes", "prepare", "shapes/JPEGImages"),
        ("prepare shapes", "prepare", "prepare/stage.json"),
        ("prepare shapes", "prepare", "manifest.jsonl"),
        ("train-cls", "train-cls", "train-cls/stage.json"),
        ("train-cls", "train-cls", "last.pt"),
        ("train-cls", "train-cls", "final.pt"),
        ("make-pseudo", "make-pseudo/cams", "train_00007.npz"),
        ("make-pseudo", "make-pseudo/labels", "train_00007.png"),
        ("train-seg", "train-seg", "final.pt"),
        ("eval", "eval", "val_00003.png"),
        ("eval", "eval", "metrics.json"),
        ("run --set cls.epochs=4", "", "config.yaml"),
    ],
)  # fmt: skip
def test_full_disk(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch, line: str, step: str, name: str) -> None:
    """What is finished stays, half a file never does, and with room on the disk the same command goes on to the same result."""
    breaks = (undo(step),) if step else ()
    if name.startswith("shapes"):
        line = f"{line} --root shapes"
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        check(rca, Case("full disk", breaks, line, 6, rf"{name}.*: cannot be written \(No space left on device\)", "make room on that disk"))
    assert not list(Path().rglob("*.tmp"))
    for command in (line, "run"):
        assert rca(*command.split()).code == 0
    if step:
        assert digests(Path("run")) == digests(undisturbed.path)


def test_full_disk_for_the_log_of_training(rca: Rca) -> None:
    log = Path("run/train-seg/log.jsonl")
    breaks = (unfinished("train-seg"), lambda: log.unlink(), lambda: log.symlink_to("/dev/full"))
    check(rca, Case("full disk", breaks, "train-seg", 6, r"train-seg/log\.jsonl: cannot be written \(No space left on device\)", "make room on that disk"))


def test_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rcatool", "status", "--run", str(Path("run").absolute())]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (6, "error: a file or standard output: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "| true"])
def test_closed_output(closed: str) -> None:
    line = f'"{sys.executable}" -m rcatool status --run "{Path("run").absolute()}" {closed}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_files_that_cannot_be_put_in_place(rca: Rca, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(target))

    monkeypatch.setattr(os, "replace", refuse)
    hint = "make room" if code == errno.EDQUOT else "--run DIR"
    check(rca, Case("read-only", (undo("eval"),), "eval", 6, rf"run/eval/stage\.json: cannot be written \({os.strerror(code)}\)", hint))


@table(
    Case("run that is a file", (write("file"),), "prepare shapes --run file", 6, "file/.*: cannot be written", "--run DIR"),
    Case("run below a file", (write("file"),), "prepare shapes --run file/run", 6, "file/run/.*: cannot be written", "--run DIR"),
    Case("run that is a file, later", (write("file"),), "train-cls --run file", 4, "file: no run here", "rca prepare"),
    Case("run with too long a name", (), f"prepare shapes --run {'x' * 300}", 6, "x+/.*: File name too long"),
    Case("step that is a file", (undo("eval"), write("run/eval")), "eval", 6, r"run/eval.*: cannot be written", "--run DIR"),
    Case("images below a file", (write("file"),), "prepare shapes --root file/images", 6, "file/images.*: cannot be written", "DIR"),
)
def test_places_that_cannot_be_written(rca: Rca, case: Case) -> None:
    check(rca, case)


# ---- others


@pytest.fixture
def holder(_finished_run: None) -> Iterator[int]:
    """Another process that writes to the run."""
    code = "import fcntl, os, sys; f = open('run/.lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX); f.write(str(os.getpid())); f.flush(); print(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


@pytest.mark.parametrize("line", ["prepare shapes --force", "train-cls --force", "make-pseudo --force", "train-seg --force", "eval --force", "run --set seed=1"])
def test_run_in_use(rca: Rca, holder: int, line: str) -> None:
    before = Path("run/config.yaml").read_bytes()
    check(rca, Case("in use", (), line, 4, f"run: in use by process {holder}", f"wait until it is done, or stop it: kill {holder}"))
    assert Path("run/config.yaml").read_bytes() == before
    assert rca("status").code == 0  # whoever only looks need not wait


def test_several_processes(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(rca, Case("torchrun", (), "train-cls --force", 6, r"several processes \(torchrun\) are not supported yet", "single process"))
