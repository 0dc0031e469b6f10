"""The field's weight files: written here in the layouts that they have, read back by us, and broken in every way."""

import contextlib
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rcatool.data.transforms import normalise
from rcatool.errors import ConfigError, DataError
from rcatool.models.backbones import build_backbone
from rcatool.models.convert_weights import convert, convert_file
from rcatool.models.weight_files import read_mxnet, read_state
from rcatool.models.weights import load_weights

KINDS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
BLOCKS = {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}


def mxnet_bytes(arrays: dict[str, np.ndarray], version: int = 0) -> bytes:
    """MXNet's file of named arrays, as its releases of 2016 (0), 2017 (1), later (2), and with NumPy's shapes (3) write it."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        if version:
            out += struct.pack("<I", {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}[version])
        if version >= 2:
            out += struct.pack("<i", 0)  # dense
        out += struct.pack("<I", array.ndim) + struct.pack("<" + ("q" if version else "I") * array.ndim, *array.shape)
        out += struct.pack("<iii", 1, 0, KINDS[array.dtype.name]) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name)) + name.encode()
    return out


def some_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {f"arg:{kind}": (rng.normal(size=(2, 3, 1)) * 50).astype(kind) for kind in KINDS}


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_mxnet_files_of_all_ages_are_read(version: int, tmp_path: Path) -> None:
    path, arrays = tmp_path / "some.params", some_arrays()
    path.write_bytes(mxnet_bytes(arrays, version))
    found = read_state(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].numpy(), array, strict=True)


def hostile(data: bytes) -> dict[str, bytes]:
    """Files that lie about what follows."""
    array, names = 24, len(mxnet_bytes({"arg:float32": np.zeros((2, 3), np.float32)}))
    return {
        "many arrays": data[:16] + struct.pack("<Q", 2**60) + data[24:],
        "many dimensions": data[:array] + struct.pack("<I", 2**31) + data[array + 4 :],
        "no dimensions": data[:array] + struct.pack("<I", 0) + data[array + 4 :],
        "huge array": data[: array + 4] + struct.pack("<II", 2**32 - 1, 2**32 - 1) + data[array + 12 :],
        "unknown type": data[: array + 20] + struct.pack("<I", 99) + data[array + 24 :],
        "long name": data[: names - 19] + struct.pack("<Q", 2**62) + data[names - 11 :],
        "more at the end": data + b"\0",
        "name that is not text": data[:-3] + b"\xff\xfe\xfd",
    }


@pytest.mark.parametrize("how", hostile(bytes(200)))
def test_hostile_mxnet_files_are_refused(how: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.params"
    path.write_bytes(hostile(mxnet_bytes({"arg:float32": np.zeros((2, 3), np.float32)}))[how])
    with pytest.raises(DataError, match=re.escape(str(path)) + ": not a whole MXNet parameter file"):
        read_mxnet(path)


@pytest.mark.parametrize("version", [0, 2])
def test_every_cut_and_every_flip_is_refused_or_read(version: int, tmp_path: Path) -> None:
    """A file cut anywhere is refused; one with a byte changed gives arrays or our error, nothing else."""
    data, path = mxnet_bytes(some_arrays(), version), tmp_path / "cut.params"
    for size in range(16, len(data), 11):
        path.write_bytes(data[:size])
        with pytest.raises(DataError):
            read_mxnet(path)
    for place in range(16, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xA5]) + data[place + 1 :])
        with contextlib.suppress(DataError):
            read_mxnet(path)


@pytest.fixture(scope="module")
def resnet38() -> dict[str, Tensor]:
    """Values for ResNet-38, by the published PyTorch names; most of them one number over and over, so that files pack well."""
    with torch.device("meta"):
        expected = build_backbone("resnet38", output_stride=8).body.state_dict()
    return {
        name: torch.full(value.shape, 1 + place / 1024)
        for place, (name, value) in enumerate(expected.items())
        if not name.endswith("num_batches_tracked")
    }


def mxnet_name(name: str) -> str:
    """The name that the MXNet file has for a parameter, from the table of the published network."""
    module, part = name.rsplit(".", 1)
    parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    prefix = "aux:" if part.startswith("running") else "arg:"
    if module == "conv1a":
        return "arg:conv1a_weight"
    if module == "bn7":
        return f"{prefix}bn7_{parts[part]}"
    for stage, count in BLOCKS.items():
        for number in range(count):
            block = f"b{stage}_{number}" if number else f"b{stage}"
            theirs = f"{stage}b{number}" if number else f"{stage}a"
            if module.startswith(f"{block}."):
                layer, branch = module.removeprefix(f"{block}.").split("_")
                return f"arg:res{theirs}_{branch}_weight" if layer == "conv" else f"{prefix}bn{theirs}_{branch}_{parts[part]}"
    raise AssertionError(name)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_mxnet_file_gives_resnet38(resnet38: dict[str, Tensor]) -> None:
    arrays = {mxnet_name(name): value for name, value in resnet38.items()}
    assert len(arrays) == len(resnet38)
    assert {"arg:res2a_branch1_weight", "arg:res4b5_branch2b1_weight", "aux:bn7a_branch2b2_moving_var"} <= arrays.keys()
    arrays |= {"arg:linear1000_weight": torch.ones(1000, 2), "arg:linear1000_bias": torch.ones(1000)}
    converted = convert(arrays, "file")
    assert converted.backbone == "resnet38"
    assert converted.left_out == ("arg:linear1000_weight", "arg:linear1000_bias")
    assert_same(converted.state, resnet38)
    bare = {name.split(":")[1]: value for name, value in arrays.items()}
    assert_same(convert(bare, "file").state, resnet38)


def test_a_pytorch_state_dict_gives_resnet38(resnet38: dict[str, Tensor]) -> None:
    converted = convert(resnet38 | {"fc8.weight": torch.ones(20, 4096, 1, 1)}, "file")
    assert converted.left_out == ("fc8.weight",)
    assert_same(converted.state, resnet38)


def test_what_is_missing_is_named(resnet38: dict[str, Tensor]) -> None:
    lacking = {mxnet_name(name): value for name, value in resnet38.items() if name != "b4_1.conv_branch2a.weight"}
    with pytest.raises(DataError, match=r"file: these weights lack b4_1\.conv_branch2a\.weight$"):
        convert(lacking, "file")
    with pytest.raises(DataError, match="wrong shape for conv1a.weight"):
        convert(resnet38 | {"conv1a.weight": torch.ones(64, 3, 7, 7)}, "file")
    with pytest.raises(DataError, match="no layout to convert"):
        convert({"layer1.0.weight": torch.ones(1)}, "file")


CAFFE_NAMES = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"]


@torch.inference_mode()
def test_caffes_vgg16_sees_the_same_in_our_images() -> None:
    """Its first layer on blue-green-red of 255 less its mean is ours on a normalised image, but for the border."""
    generator = torch.Generator().manual_seed(5)
    state = caffe_state(generator)
    converted = convert(state, "file")
    assert (converted.backbone, converted.left_out) == ("vgg16", ("fc6.weight", "fc6.bias"))
    with torch.device("meta"):
        model = build_backbone("vgg16", output_stride=8)
    model.body.load_state_dict(converted.state, assign=True)
    for name, layer in list(zip(CAFFE_NAMES, [layer for layer in model.body.features if hasattr(layer, "weight")], strict=True))[1:]:
        assert torch.equal(layer.weight, state[f"conv{name}.weight"])
    photo = torch.randint(0, 256, (3, 12, 15), generator=generator, dtype=torch.uint8)
    theirs = photo.float().flip(0) - torch.tensor([104.008, 116.669, 122.675]).view(3, 1, 1)
    expected = F.conv2d(theirs[None], state["conv1_1.weight"], state["conv1_1.bias"])
    found = model.body.features[0](normalise(photo)[None])[..., 1:-1, 1:-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


class Evil:
    """Unpickled by an ordinary reader, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    source, trace = tmp_path / "res38_cls.pth", tmp_path / "executed"
    source.write_bytes(pickle.dumps({"conv1a.weight": Evil(trace)}, protocol=2))
    with pytest.raises(DataError, match=re.escape(str(source))):
        convert_file(source, tmp_path / "out.pth")
    assert not trace.exists()
    assert not (tmp_path / "out.pth").exists()


def test_the_target_is_checked_first(tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    torch.save({"conv1a.weight": torch.ones(1)}, source)
    with pytest.raises(ConfigError, match="written over"):
        convert_file(source, source)
    with pytest.raises(ConfigError, match=r"\.safetensors, \.pth or \.pt"):
        convert_file(source, tmp_path / "out.bin")
    with pytest.raises(DataError, match="no such file"):
        convert_file(tmp_path / "none.pth", tmp_path / "out.pth")


def caffe_state(generator: torch.Generator) -> dict[str, Tensor]:
    """VGG16 in Caffe's names: the first layer random, the others of one number each, and a layer that we have not."""
    with torch.device("meta"):
        layers = [layer for layer in build_backbone("vgg16", output_stride=8).body.features if hasattr(layer, "weight")]
    state = {"fc6.weight": torch.ones(2), "fc6.bias": torch.ones(2)}
    for number, (name, layer) in enumerate(zip(CAFFE_NAMES, layers, strict=True)):
        state |= {f"conv{name}.weight": torch.full(layer.weight.shape, float(number)), f"conv{name}.bias": torch.ones(layer.bias.shape)}
    return state | {"conv1_1.weight": torch.randn(64, 3, 3, 3, generator=generator)}


def test_command(rca, tmp_path: Path) -> None:
    state = caffe_state(torch.Generator().manual_seed(1))
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "vgg16_20M.pth")
    result = rca("convert-weights", "vgg16_20M.pth", "out.safetensors")
    assert result.code == 0, result.err
    assert "vgg16, 26 tensors, 14,714,688 numbers" in result.out
    assert "left out: fc6.weight, fc6.bias" in result.out
    assert f"cls.weights={tmp_path / 'out.safetensors'}" in result.out
    with torch.device("meta"):
        model = build_backbone("vgg16", output_stride=8)
    model = model.to_empty(device="cpu")
    load_weights(model, "vgg16", str(tmp_path / "out.safetensors"))
    assert torch.equal(model.body.features[28].weight, state["conv5_3.weight"])


def test_command_on_bad_files(rca, tmp_path: Path) -> None:
    data = mxnet_bytes({"arg:conv1a_weight": np.zeros((64, 3, 3, 3), np.float32)})
    (tmp_path / "a1.params").write_bytes(data)
    result = rca("convert-weights", "a1.params", "out.pth")
    assert (result.code, "these weights lack b2." in result.err) == (3, True)
    with pytest.raises(DataError, match="to be converted first"):
        load_weights(build_backbone("tiny", output_stride=16), "tiny", str(tmp_path / "a1.params"))
    (tmp_path / "a1.params").write_bytes(data[:5000])
    result = rca("convert-weights", "a1.params", "out.pth")
    assert (result.code, "it ends at byte 5000" in result.err) == (3, True)
    assert not (tmp_path / "out.pth").exists()
