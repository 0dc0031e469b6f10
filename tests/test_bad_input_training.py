"""Training that cannot start, go on or end: weights, training states, learning rates."""

import pickle
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from breaks import Break, Hostile, change_checkpoint, cut, remove, rename, undo, unfinished, write
from broken import Case, Rca, check, set_up, table
from tiny_run import TinyRun

CLS, SEG, LAST = "run/train-cls/final.pt", "run/train-seg/final.pt", "run/train-cls/last.pt"
TRAIN = "train-cls --set cls.weights=w.pth"
DOWNLOAD = "train-cls --set cls.backbone=mobilenet_v2 --set cls.weights=imagenet"


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


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


@table(
    Case("weights missing", (), TRAIN, 3, r"w\.pth: no such file", "imagenet, none, or the path of a state dict"),
    Case("weights mistyped", (),
         "train-cls --set cls.weights=imagnet", 3, "imagnet: no such file", "imagenet, none, or the path of a state dict"),
    Case("weights empty", (write("w.pth"),), TRAIN, 3, r"w\.pth: not a readable checkpoint"),
    Case("weights cut short", (weights(), cut("w.pth")), TRAIN, 3, r"w\.pth: not a readable checkpoint"),
    Case("weights that run code", (write("w.pth", pickle.dumps(Hostile(), protocol=2)),),
         TRAIN, 3, r"w\.pth: not a readable checkpoint .*more than tensors"),
    Case("weights that run code, newer", (write("w.pth", pickle.dumps({"a": Hostile()})),),
         TRAIN, 3, r"w\.pth: not a readable checkpoint .*more than tensors"),
    Case("weights of text", (write("w.pth", "version https://git-lfs.github.com/spec/v1\n"),),
         TRAIN, 3, r"w\.pth: not a readable checkpoint"),
    Case("weights in a folder", (write("w.pth/data.pkl"),), TRAIN, 3, r"w\.pth: cannot be read \(Is a directory\)"),
    Case("weights of another network", (weights(),),
         TRAIN + " --set cls.backbone=mobilenet_v2", 3, r"w\.pth: these weights lack features\.0\.0\.weight.* and \d+ more",
         "belongs to this backbone"),
    Case("weights with one too few", (weights(lambda state: state.pop(first_weight(state))),),
         TRAIN, 3, r"these weights lack features\.0\.weight$", "belongs to this backbone"),
    Case("weights with one too many", (weights(lambda state: state.update(extra=state[first_weight(state)])),),
         TRAIN, 3, "these weights have unknown extra$", "belongs to this backbone"),
    Case("weights of another shape", (weights(lambda state: state.update({first_weight(state): state[first_weight(state)][:5]})),),
         TRAIN, 3, r"wrong shape for features\.0\.weight \(5, 3, 3, 3\), expected \(24, 3, 3, 3\)", "belongs"),
    Case("weights with NaN", (weights(lambda state: state[first_weight(state)].fill_(float("nan"))),),
         TRAIN, 3, r"w\.pth: features\.0\.weight holds numbers that are not finite"),
    Case("weights that are no tensors", (weights(lambda state: state.update(epoch=3)),), TRAIN, 3, r"w\.pth: not a state dict"),
    Case("safetensors garbage", (write("w.safetensors", b"\xff" * 99),),
         "train-cls --set cls.weights=w.safetensors", 3, r"not a readable safetensors file"),
    Case("no weights for the smallest network", (undo("train-cls"),),
         "train-cls --set cls.weights=imagenet", 6, "no ImageNet weights for the backbone `tiny`", "cls.weights=none"),
    Case("training state garbage", (unfinished("train-cls"), remove(CLS), write(LAST, "x" * 99)),
         "train-cls", 3, r"train-cls/last\.pt: not a readable checkpoint", "delete it, or .*--force"),
    Case("training state of another kind", (unfinished("train-cls"), rename(CLS, LAST)),
         "train-cls", 3, r"train-cls/last\.pt: not a checkpoint of this training", "delete it, or .*--force"),
    Case("training state of another network",
         (unfinished("train-cls"), change_checkpoint(SEG, lambda state: state.update(optimizer={}, epoch=1)), rename(SEG, LAST)),
         "train-cls", 3, r"last\.pt: not a checkpoint of this training", "delete it"),
    Case("learning rate absurd", (),
         "run --set cls.lr=1e9", 5, r"the loss is not finite at step \d+ \(loss=nan", "lower the learning rates"),
    Case("learning rate absurd, of the second network", (),
         "train-seg --set seg.lr=1e9 --set seg.head_lr=1e9", 5, r"the loss is not finite at step \d+ \(loss=(nan|inf)\)",
         "lower the learning rates"),
    Case("photos larger than memory", (),
         "train-cls --set cls.resize_long=[1000000000,1000000000]", 6, "train-cls: out of memory",
         "smaller cls.batch_size or cls.crop_size"),
)  # fmt: skip
def test_weights_and_training(rca: Rca, case: Case) -> None:
    check(rca, case)


def test_weights_that_cannot_be_downloaded(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    message = "the ImageNet weights of mobilenet_v2 could not be downloaded .*no route to host"
    check(rca, Case("offline", (), DOWNLOAD, 6, message, r"put https://.*\.pth at .*--set cls\.weights=PATH"))


def test_weights_half_downloaded(rca: Rca, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    name = Path(torchvision.models.get_model_weights("mobilenet_v2").IMAGENET1K_V1.url).name
    cached = f"torch-home/hub/checkpoints/{name}"
    message = f"{name}: not a readable checkpoint"
    check(rca, Case("half a file", (write(cached, "half"),), DOWNLOAD, 3, message, "delete it, and it is downloaded again"))
