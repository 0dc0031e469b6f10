"""What a GPU would be asked to do, on one that is pretended: commands give what they give on a CPU, and no operand is left behind there."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from PIL import Image
from pretend_cuda import pretended_gpu
from tiny_run import TinyRun, assign, record

from rcatool.run import Run
from rcatool.stages.second_round import make_second_labels

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")
Rca = Callable[..., Result]
EXACT = ("runtime.precision=fp32",)  # a GPU's own choice is bfloat16


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretended_gpu(monkeypatch):
        yield


def difference(one: Path, other: Path) -> float:
    """The share of pixels in which the label PNGs of two folders differ."""
    names = sorted(path.name for path in one.glob("*.png"))
    assert names
    assert names == sorted(path.name for path in other.glob("*.png"))
    pairs = [[np.asarray(Image.open(folder / name)) for folder in (one, other)] for name in names]
    return float(np.mean([(a != b).mean() for a, b in pairs]))


def test_the_pretended_gpu_refuses_what_a_real_one_refuses(gpu: None) -> None:
    there, here = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
    assert (there + 1).device.type == "cuda"
    assert torch.equal((there + here.to(there)).cpu(), torch.full((2, 3), 2.0))
    assert there[torch.tensor([1])].shape == (1, 3)  # torch moves indices itself
    for wrong in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: there.numpy(),
        lambda: np.asarray(there),
        lambda: torch.nn.functional.conv1d(there, here[:, :, None]),
        lambda: here[torch.zeros(2, dtype=torch.long, device="cuda")],
        lambda: there.__setitem__(0, here[0]),
        lambda: torch.rand(3, generator=torch.Generator(), device="cuda"),
    ):
        with pytest.raises(RuntimeError, match="device|subclass|generator"):
            wrong()


@pytest.mark.parametrize(
    "changes",
    [
        ("refine.method=none", "cam.region_rounds=0"),
        ("refine.method=walk",),
        ("refine.method=none", "pseudo.crf=irn", "pseudo.rule=confidence", "pseudo.sure_background=0.2"),
    ],
)
def test_cams_and_labels(rca: Rca, undisturbed: TinyRun, tmp_path: Path, changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (undisturbed.copy(tmp_path / name) for name in ("cpu", "cuda"))
    assert rca("make-pseudo", "--run", here, "--force", *assign(*changes)).code == 0
    with pretended_gpu(monkeypatch):
        done = rca("make-pseudo", "--run", there, "--force", "--device", "cuda", *assign(*changes, *EXACT))
    assert done.code == 0, done.err
    assert record(there, "make-pseudo/cams")["info"]["device"] == "cuda"
    assert difference(here / "make-pseudo/labels", there / "make-pseudo/labels") < 1e-3


@pytest.mark.parametrize("method", ["affinity", "irn"])
def test_trained_affinities(rca: Rca, undisturbed: TinyRun, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, refined = undisturbed.copy(tmp_path / "run"), tmp_path / "run/make-pseudo/refined"
    network = ("affinity.weights=train-cls", "affinity.epochs=1", "affinity.batch_size=4", "affinity.crop_size=48")
    assert rca("make-pseudo", "--run", run, *assign(f"refine.method={method}", *network)).code == 0
    here = refined.rename(tmp_path / "here")
    labels = (run / "make-pseudo/labels").rename(tmp_path / "labels")
    with pretended_gpu(monkeypatch):
        done = rca("make-pseudo", "--run", run, "--device", "cuda", *assign(*EXACT))
    assert done.code == 0, done.err
    assert len(list(refined.glob("*.npz"))) == len(list(here.glob("*.npz"))) > 0
    assert difference(labels, run / "make-pseudo/labels") < 1e-3


def test_predictions_and_pictures(rca: Rca, undisturbed: TinyRun, tmp_path: Path, gpu: None) -> None:
    """In bfloat16, as on a GPU that has it."""
    run = undisturbed.copy(tmp_path / "run")
    done = rca("eval", "--run", run, "--force", "--device", "cuda")
    assert done.code == 0, done.err
    assert difference(run / "eval/predictions", undisturbed.path / "eval/predictions") < 0.02
    done = rca("predict", undisturbed.data / "JPEGImages", "--run", run, "--out", tmp_path / "out", "--device", "cuda", "--flip", "--crf")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").glob("*.png"))) == 22
    shutil.rmtree(run / "eval")
    done = rca("show", "val_00000", "--run", run, "--predict", "--out", tmp_path / "shown.png")
    assert done.code == 0, done.err


def test_labels_of_the_second_round(two_rounds: Path, tmp_path: Path, gpu: None) -> None:
    run = Run(Path(shutil.copytree(two_rounds, tmp_path / "run")))
    config = run.read_config()
    runtime = config.runtime.model_copy(update={"device": "cuda", "precision": "fp32"})
    make_second_labels(run, config.model_copy(update={"runtime": runtime}), force=True)
    assert record(run.root, "make-pseudo/round-2")["info"]["device"] == "cuda"
    assert difference(run.root / "make-pseudo/round-2", two_rounds / "make-pseudo/round-2") < 1e-3
