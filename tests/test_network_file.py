"""A network's file gives back what was written, and whatever else it holds is an error of one line."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_network import NAMES, small_network
from tiny_run import TinyRun

from rcatool.errors import DataError, RcaError
from rcatool.network_file import KEY, read_network, read_run, write_network


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a small network."""
    file = tmp_path / "network.safetensors"
    write_network(file, small_network())
    return file


def texts_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        document: dict[str, Any] = json.loads(file.metadata()[KEY])
    return document


def rewrite(path: Path, changes: dict[str, Any], tensors: dict[str, torch.Tensor | None] | None = None) -> None:
    """Write a file anew with other entries (... removes one) and other tensors (None removes one)."""
    document = {key: value for key, value in (texts_of(path) | changes).items() if value is not ...}
    state = {key: value for key, value in (load_file(path) | (tensors or {})).items() if value is not None}
    save_file(state, path, {KEY: json.dumps(document)})


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_network(path)
    message = caught.value.message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message.removeprefix(str(path))


@torch.inference_mode()
def test_round_trip(path: Path) -> None:
    before, after = small_network(), read_network(path)
    assert (after.card, after.digest) == (before.card, before.digest)
    images = torch.rand(2, 3, 50, 70)
    assert torch.equal(after.model(images), before.model(images))
    assert not after.model.training
    copy = path.with_name("copy.safetensors")
    write_network(copy, after)
    assert copy.read_bytes() == path.read_bytes()


def test_the_file_says_what_a_user_of_other_programs_needs(path: Path) -> None:
    document = texts_of(path)
    assert document["classes"] == list(NAMES)
    assert document["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert document["mean"] == [0.485, 0.456, 0.406]
    assert document["std"] == [0.229, 0.224, 0.225]
    assert (document["format"], document["long_side"], document["design"]["backbone"]) == (1, 96, "tiny")
    assert set(load_file(path)) == set(small_network().model.state_dict())


def test_reading_draws_no_random_numbers_of_the_caller(path: Path) -> None:
    before = torch.random.get_rng_state()
    read_network(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_digest_is_of_what_predictions_depend_on(path: Path) -> None:
    base = small_network()
    assert small_network(long_side=97).digest != base.digest
    assert small_network(names=("ring", "cross", "bars")).digest != base.digest
    assert small_network(aspp_rates=(1, 3)).digest != base.digest
    assert small_network(spread=0.31).digest != base.digest
    rewrite(path, {"version": "9.9", "origin": "elsewhere"})
    assert read_network(path).digest == base.digest


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "newer format": ({"format": 2}, "format: 2, expected 1"),
    "no format": ({"format": ...}, "format: missing"),
    "format true": ({"format": True}, "format: true"),
    "no classes": ({"classes": []}, "no class"),
    "class twice": ({"classes": ["a", "a", "b"]}, "'a' occurs twice"),
    "classes text": ({"classes": "abc"}, "classes: .*expected a list of names"),
    "class number": ({"classes": ["a", 1, "b"]}, "classes"),
    "another number of classes": ({"classes": ["a", "b"]}, "palette"),
    "two classes and colours": ({"classes": ["a", "b"], "palette": [[0, 0, 0]] * 3}, r"head.branches.0.\w+ is float32 .*expected"),
    "palette of strings": ({"palette": ["red"] * 4}, "palette"),
    "colour 256": ({"palette": [[0, 0, 256]] * 4}, "palette"),
    "colour -1": ({"palette": [[0, 0, -1]] * 4}, "palette"),
    "mean of two": ({"mean": [0.5, 0.5]}, "mean: .*expected 3 finite numbers"),
    "mean nan": ({"mean": [0.5, 0.5, float("nan")]}, "mean"),
    "std zero": ({"std": [0.5, 0.5, 0]}, "std: .*expected 3 positive"),
    "std infinite": ({"std": [0.5, 0.5, float("inf")]}, "std"),
    "side zero": ({"long_side": 0}, "long_side: 0"),
    "side huge": ({"long_side": 10**9}, "long_side: 1000000000"),
    "side float": ({"long_side": 500.0}, "long_side: 500.0"),
    "no digest": ({"digest": ...}, "damaged, or changed by hand"),
    "other digest": ({"digest": "0" * 64}, "damaged, or changed by hand"),
    "other mean": ({"mean": [0.5, 0.5, 0.5]}, "damaged, or changed by hand"),
    "origin": ({"origin": ["x"]}, "origin"),
    "version long": ({"version": "9" * 1000}, "version"),
    "new entry": ({"tiles": 3}, "knows no tiles"),
    "no design": ({"design": ...}, "design: expected an object"),
    "design list": ({"design": [1]}, "design: expected an object"),
}
WRONG_DESIGN: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"attention": True}, "knows no attention"),
    "stride text": ({"output_stride": "8"}, "design.output_stride: \"8\""),
    "stride true": ({"output_stride": True}, "design.output_stride"),
    "stride 0": ({"output_stride": 0}, "no network can be built"),
    "stride 7": ({"output_stride": 7}, "no network can be built"),
    "no rates": ({"aspp_rates": []}, "no network can be built"),
    "rate 0": ({"aspp_rates": [0, 1]}, "damaged, or changed by hand"),
    "rate text": ({"aspp_rates": ["1"]}, "design.aspp_rates"),
    "rates nested": ({"aspp_rates": [[1], 2]}, "design.aspp_rates"),
    "unknown backbone": ({"backbone": "resnet999"}, "no network can be built"),
    "backbone by path": ({"backbone": "../../x"}, "no network can be built"),
    "no such network of timm": ({"backbone": "timm:no_such_network"}, "no network can be built"),
    "other backbone": ({"backbone": "mobilenet_v2"}, "not the weights of its design"),
    "huge": ({"aspp_rates": [1, 10**12]}, "design.aspp_rates"),
    "other rates": ({"aspp_rates": [1, 2, 3]}, "lacks tensor 'head.branches.2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_entries(path: Path, case: str) -> None:
    changes, message = WRONG[case]
    rewrite(path, changes)
    found = error_of(path)
    assert re.search(message, found), found


@pytest.mark.parametrize("case", WRONG_DESIGN)
def test_wrong_designs(path: Path, case: str) -> None:
    changes, message = WRONG_DESIGN[case]
    rewrite(path, {"design": texts_of(path)["design"] | changes})
    found = error_of(path)
    assert re.search(message, found), found


def test_a_design_that_fits_its_weights_and_cannot_run() -> None:
    # A dilation of 0 has the shapes of any other; a digest made for it would not save it.
    with pytest.raises(DataError, match="test: no network can be built from its design"):
        small_network(aspp_rates=(0, 1))


def test_wrong_tensors(path: Path) -> None:
    original = path.read_bytes()
    bias = load_file(path)["head.branches.0.bias"]
    for tensors, message in (
        ({"head.branches.0.bias": None}, "lacks tensor 'head.branches.0.bias'"),
        ({"extra": bias}, "has the unknown tensor 'extra'"),
        ({"head.branches.0.bias": bias[:2]}, r"head.branches.0.bias is float32 \(2,\), expected float32 \(4,\)"),
        ({"head.branches.0.bias": bias.half()}, r"head.branches.0.bias is float16 \(4,\)"),
        ({"head.branches.0.bias": bias * float("nan")}, "head.branches.0.bias holds numbers that are not finite"),
        ({"head.branches.0.bias": bias + 1}, "damaged, or changed by hand"),
    ):
        rewrite(path, {}, tensors)  # type: ignore[arg-type]
        found = error_of(path)
        assert re.search(message, found), found
        path.write_bytes(original)
    assert read_network(path).card.classes.names == NAMES


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "null", '"x"', "[" * 100_000])
def test_headers_that_are_no_object(path: Path, text: str) -> None:
    save_file(load_file(path), path, {KEY: text})
    assert error_of(path)


def test_other_files(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    save_file(load_file(path), path)
    assert "no network of rcatool" in error_of(path)
    size = struct.unpack("<Q", whole[:8])[0]
    for content in (
        b"", b"x", whole[:7], whole[: 8 + size // 2], whole[: 8 + size], whole[:-1], whole + b"x", b"PK\x03\x04" + whole,
        struct.pack("<Q", 2**63) + whole[8:], struct.pack("<Q", size - 1) + whole[8:], b"\x80\x04cos\nsystem\n" * 20,
    ):  # fmt: skip
        path.write_bytes(content)
        assert "not a readable safetensors file" in error_of(path)
    torch.save({"a": torch.zeros(2)}, path)
    assert "not a readable safetensors file" in error_of(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(DataError, match="no such file"):
            read_network(missing)


def test_flipped_bits_never_pass(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    size = struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, 8 + size, 60), *rng.integers(8 + size, len(whole), 20)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            network = read_network(path)
        except RcaError:
            continue
        assert network.digest == small_network().digest  # what does not count: version, origin, a colour, a space


@torch.inference_mode()
def test_a_run_and_the_file_made_of_it_are_one_network(undisturbed: TinyRun, tmp_path: Path) -> None:
    of_run = read_run(undisturbed.path)
    write_network(tmp_path / "a.safetensors", of_run)
    of_file = read_network(tmp_path / "a.safetensors")
    assert of_file.digest == of_run.digest
    assert of_file.card == of_run.card
    assert of_run.card.long_side == 48  # of tiny.yaml's photos
    assert of_run.card.labels == ("background", "ring", "cross", "dots", "bars")
    record = json.loads((undisturbed.path / "train-seg" / "stage.json").read_text())
    assert of_run.card.origin == record["fingerprint"]


def test_of_two_rounds_the_second_network_counts(two_rounds: Path) -> None:
    first, second = (json.loads((two_rounds / step / "stage.json").read_text())["fingerprint"] for step in ("train-seg", "train-seg-2"))
    assert read_run(two_rounds).card.origin == second
    assert read_run(two_rounds, step="train-seg").card.origin == first


def test_runs_without_a_network(undisturbed: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run directory"):
        read_run(tmp_path)
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    with pytest.raises(DataError, match="no trained segmentation network") as caught:
        read_run(run)
    assert f"--run {run}" in str(caught.value.hint)
    (run / "train-seg").mkdir()
    weights = torch.load(undisturbed.path / "train-seg" / "final.pt", weights_only=True)
    for change, message in (
        ({"design": ...}, "how its network is built"),
        ({"design": weights["design"] | {"new": 1}}, "knows no new"),
        ({"classes": ["a"]}, "manifest|expected"),
        ({"classes": "abcd"}, "not a trained segmentation network"),
        ({"model": [1]}, "not a trained segmentation network"),
        ({"model": {}}, "lacks tensor"),
        ({"model": {"a": 1}}, "lacks tensor"),
    ):
        torch.save({k: v for k, v in (weights | change).items() if v is not ...}, run / "train-seg" / "final.pt")
        with pytest.raises(DataError, match=message):
            read_run(run)
    (run / "train-seg" / "final.pt").write_bytes(b"\x80\x04")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        read_run(run)
