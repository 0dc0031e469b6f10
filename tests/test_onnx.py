"""The ONNX file computes what torch does, at any size, or is not kept."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from small_network import NAMES, small_network
from tiny_run import TinyRun
from torch import Tensor, nn
from torch.nn import functional as F

from rcatool import onnx_file
from rcatool.errors import SetupError
from rcatool.network_file import KEY, Network
from rcatool.onnx_file import Compared, check, compare, onnx_bytes

pytest.importorskip("onnx", reason="needs the extra rcatool[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra rcatool[onnx]")

Rca = Callable[..., Result]


def photos(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 64, 96), (2, 33, 41), (3, 8, 8), (1, 1, 5)])
def test_pixels_in_logits_out_at_any_size(shape: tuple[int, int, int]) -> None:
    network = small_network()
    session = onnxruntime.InferenceSession(onnx_bytes(network), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).integers(0, 256, (shape[0], 3, *shape[1:]), dtype=np.uint8)
    found = session.run(None, {"image": images})[0]
    mean, std = (np.array(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network.model.double()(torch.from_numpy((images / 255 - mean) / std)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_file_carries_the_card() -> None:
    session = onnxruntime.InferenceSession(onnx_bytes(small_network()), providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert card["classes"] == list(NAMES)
    assert (card["long_side"], card["digest"]) == (96, small_network().digest)
    assert [(one.name, one.type) for one in session.get_inputs()] == [("image", "tensor(uint8)")]
    assert [(one.name, one.type) for one in session.get_outputs()] == [("logits", "tensor(float)")]


def test_it_is_compared_at_three_sizes_and_in_a_batch() -> None:
    network = small_network()
    found = compare(network, onnx_bytes(network), photos((40, 60), (80, 50)))
    assert [one.shape for one in found] == [(1, 3, 64, 96), (1, 3, 58, 36), (2, 3, 88, 132)]
    assert max(one.difference for one in found) < 1e-4
    check(found)


@pytest.mark.parametrize("difference", [1.1e-3, float("inf"), float("nan")])
def test_differences_are_refused(difference: float) -> None:
    with pytest.raises(SetupError, match=r"differ from torch's by .* on images \(1, 3, 7, 9\).*not kept"):
        check([Compared((1, 3, 4, 4), 1e-6), Compared((1, 3, 7, 9), difference), Compared((1, 3, 5, 5), 1e-3)])
    check([Compared((1, 3, 4, 4), 1e-3)])


class OfOneSize(nn.Module):
    """Works at a size that Python worked out, which the exporter takes for a constant."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return F.interpolate(logits, size=[int(side) * 2 for side in logits.shape[-2:]], mode="bilinear")


def test_a_network_whose_export_holds_for_one_size_only_is_found_out() -> None:
    base = small_network()
    network = Network(base.card, OfOneSize(base.model).eval(), base.digest)  # type: ignore[arg-type]
    data = onnx_bytes(network)
    with pytest.raises(SetupError, match="not kept"):
        check(compare(network, data, photos((40, 60))))


def test_another_networks_file_is_found_out() -> None:
    with pytest.raises(SetupError, match="not kept"):
        check(compare(small_network(), onnx_bytes(small_network(spread=0.31)), photos((40, 60))))
    with pytest.raises(SetupError, match="onnxruntime cannot run this network"):
        compare(small_network(), b"not onnx", photos((40, 60)))


def test_a_network_in_use() -> None:
    network = small_network(backbone="mobilenet_v2", output_stride=16, aspp_rates=(6, 12))
    check(compare(network, onnx_bytes(network), photos((40, 60))))


# ---- the command


def test_the_command(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    code, out, _ = rca("export", "onnx", "--run", undisturbed.path, "--out", "net.onnx", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["largest_difference"] <= 1e-3
    assert [one["images"][0] for one in document["checked"]] == [1, 1, 2]
    assert document["bytes"] == (tmp_path / "net.onnx").stat().st_size
    assert rca("export", "onnx", "--run", undisturbed.path, "--out", "net.onnx").code == 2
    assert rca("export", "onnx", "--run", undisturbed.path, "--out", "net.bin").code == 2


def test_nothing_is_kept_that_differs(rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").write_bytes(b"older")
    monkeypatch.setattr(onnx_file, "compare", lambda *_: [Compared((1, 3, 4, 4), 0.5)])
    code, _, err = rca("export", "onnx", "--run", undisturbed.path, "--out", "net.onnx", "--force")
    assert code == 6
    assert "differ from torch's by 0.5" in err
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == b"older"


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_library_that_lacks(rca: Rca, undisturbed: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    code, _, err = rca("export", "onnx", "--run", undisturbed.path, "--out", "net.onnx")
    assert code == 6
    assert f"export onnx needs the library {library}" in err
    assert "pip install 'rcatool[onnx]'" in err
    assert list(tmp_path.iterdir()) == []
