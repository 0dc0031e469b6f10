"""`runtime.deterministic`: what it switches on, and that no step needs an operation that CUDA has no deterministic kind of.

Without a GPU it cannot be seen that two runs on one give the same bytes. What can be seen on a CPU is which operations the steps call;
those that torch documents to have no deterministic kind on CUDA (torch.use_deterministic_algorithms, torch 2.14) must not be among them.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from tiny_run import CONFIG, assign
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rcatool.cli import main
from rcatool.errors import SetupError
from rcatool.loading import limits_watched
from rcatool.world import World, make_world, only_deterministic

# Operations of aten that "will throw a RuntimeError when mode=True" on CUDA, and when. Bilinear `interpolate` is not among them: torch
# itself takes another way where determinism is asked for and the tensor is not on the CPU (torch/nn/functional.py).
ALWAYS = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "_ctc_loss_backward", "put", "put_", "histc",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "upsample_bicubic2d_backward", "upsample_linear1d_backward",
    "upsample_trilinear3d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "kthvalue", "nll_loss_forward",
}  # fmt: skip
RICH = (
    "refine.method=affinity", "refine.affinity_steps=4", "affinity.epochs=1", "affinity.batch_size=4", "affinity.crop_size=48",
    "cls.accumulate=topk", "second.enabled=true", "pseudo.crf=seed", "pseudo.crf_backend=torch", "cls.epochs=2", "seg.epochs=1",
    "memory.contrast_start=0", "memory.prototypes_start=0", "seg.ema=0.9",
)  # fmt: skip


class Called(TorchDispatchMode):
    """Notes the operations that are called, and what decides whether they are among those of torch's list."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.unrepeatable: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        self.names[name] += 1
        reduction = args[3] if name == "nll_loss2d_forward" else 0
        weights = args[1] if len(args) > 1 else (kwargs or {}).get("weights")
        median = name in ("median", "nanmedian") and "dim" in func.__name__
        if name in ALWAYS or reduction != 0 or median or (name == "bincount" and weights is not None):
            self.unrepeatable.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put torch's switches back."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


def test_the_list_is_found_where_something_is_on_it() -> None:
    with Called() as called:
        image = torch.rand(1, 1, 6, 6, requires_grad=True)
        nn.functional.adaptive_avg_pool2d(image, 2).sum().backward()
        nn.functional.cross_entropy(torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        torch.bincount(torch.tensor([1, 2]), torch.tensor([0.5, 0.5]))
    assert called.unrepeatable == {"_adaptive_avg_pool2d_backward", "nll_loss2d_forward", "bincount"}


def test_no_step_needs_what_has_no_deterministic_kind(tmp_path: Path) -> None:
    settings = assign(*RICH)
    prepare = ["prepare", "shapes", "--run", str(tmp_path / "run"), "--root", str(tmp_path / "data"), "--config", str(CONFIG)]
    assert main([*prepare, *settings, *assign("data.shapes_train=6", "data.shapes_val=2")]) == 0
    with Called() as called:
        for word in ("train-cls", "make-pseudo", "train-seg", "eval"):
            assert main([word, "--run", str(tmp_path / "run")]) == 0
    assert {"convolution_backward", "upsample_bilinear2d_backward", "nll_loss2d_forward", "index_add_"} <= set(called.names)
    assert called.unrepeatable == set()


@pytest.mark.usefixtures("_as_it_was")
def test_what_is_switched_on() -> None:
    only_deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"  # of a person who knows better
    only_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_nothing_is_switched_on_a_cpu() -> None:
    """There it would choose other algorithms for nothing: the bytes of a CPU are the same without."""
    assert make_world(device="cpu", precision="fp32", deterministic=True) == World(torch.device("cpu"), None, True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_kind_is_no_traceback() -> None:
    message = "train-cls: x_cuda has no deterministic kind on this device"
    with pytest.raises(SetupError, match=message) as caught, limits_watched("train-cls"):
        raise RuntimeError("x_cuda does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'")
    assert caught.value.hint == "--set runtime.deterministic=false"


def test_every_step_passes_the_switch_on() -> None:
    """Wherever a stage makes its world of the settings."""
    stages = [path.read_text().splitlines() for path in (REPOSITORY / "rcatool" / "stages").glob("*.py")]
    calls = [line for lines in stages for line in lines if "make_world(" in line]
    assert len(calls) >= 10
    assert all("deterministic=" in line for line in calls), calls
