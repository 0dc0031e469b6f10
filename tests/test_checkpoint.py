"""Checkpoints: exact round trips, and files that are broken, foreign or hostile."""

import io
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rcatool.checkpoint import load_state, resume_training, save_state, save_training
from rcatool.errors import DataError


class Evil:
    """Unpickled by an ordinary reader, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def test_round_trip_is_exact(tmp_path: Path) -> None:
    state = {
        "model": {"weight": torch.randn(3, 4), "half": torch.randn(2).half(), "count": torch.tensor(7), "empty": torch.zeros(0, 3)},
        "layout": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "classes": ["cat", "cow"],
        "epoch": 3,
        "lr": 0.1,
        "nothing": None,
    }
    path = tmp_path / "new" / "state.pt"
    save_state(path, state)
    loaded = load_state(path)
    assert loaded.keys() == state.keys()
    for key, value in state["model"].items():
        assert loaded["model"][key].dtype == value.dtype
        assert torch.equal(loaded["model"][key], value)
    assert torch.equal(loaded["layout"], state["layout"])
    assert loaded["layout"].stride() == state["layout"].stride()
    assert [loaded[key] for key in ("classes", "epoch", "lr", "nothing")] == [["cat", "cow"], 3, 0.1, None]
    assert [file.name for file in path.parent.iterdir()] == ["state.pt"]


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_state(tmp_path / name / "state.pt", {"w": torch.arange(5.0), "n": 1})
    assert (tmp_path / "a" / "state.pt").read_bytes() == (tmp_path / "b" / "state.pt").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"epoch": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_state(path, {"epoch": 2, "function": lambda: None})
    assert load_state(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


BROKEN: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "text": b"epoch: 3\n",
    "bytes": bytes(range(256)) * 8,
    "cut": saved({"w": torch.zeros(100)})[:300],
    "no end": saved({"w": torch.zeros(100)})[:-40],
    "a list": saved([torch.zeros(2)]),
    "a tensor": saved(torch.zeros(2)),
    "a module": saved({"model": nn.Linear(2, 2)}),
    "a path": saved({"path": Path("a")}),
    "plain pickle": pickle.dumps({"w": [1, 2]}, protocol=2) + b"rest",
    "short pickle": b"\x80\x02}q\x00X",
    "stack": b"\x80\x02.",
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(case: str, tmp_path: Path) -> None:
    path, content = tmp_path / "state.pt", BROKEN[case]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_state(path)


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        load_state(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_is_not_executed(kind: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "state.pt", tmp_path / "executed"
    state = {"model": {"w": torch.zeros(2)}, "epoch": Evil(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"epoch": Evil(trace)}, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_state(path)
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_no_flipped_byte_ends_in_another_error(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"w": torch.ones(2), "n": ["x"], "e": 1}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wonders about the protocol
        places = range(0, len(content), 7 if zipped else 2)
        for i in places:
            path.write_bytes(content[:i] + bytes([content[i] ^ 0x81]) + content[i + 1 :])
            try:
                load_state(path)
            except DataError:
                refused += 1
    assert refused > len(places) / 5


def training() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_resume_without_a_file_starts_at_the_beginning(tmp_path: Path) -> None:
    model, optimizer = training()
    before = model.weight.detach().clone()
    assert resume_training(tmp_path / "last.pt", model, optimizer) == 0
    assert torch.equal(model.weight, before)


def test_resume_restores_model_momentum_and_rate(tmp_path: Path) -> None:
    model, optimizer = training()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.03
    save_training(tmp_path / "last.pt", model, optimizer, 4)
    other, fresh = training()
    assert resume_training(tmp_path / "last.pt", other, fresh) == 4
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(fresh.state[other.weight]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"])
    assert fresh.param_groups[0]["lr"] == 0.03


FOREIGN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no model": lambda s: {k: v for k, v in s.items() if k != "model"},
    "no epoch": lambda s: {k: v for k, v in s.items() if k != "epoch"},
    "other names": lambda s: s | {"model": {"other": torch.zeros(2)}},
    "other shapes": lambda s: s | {"model": nn.Linear(5, 2).state_dict()},
    "a list as model": lambda s: s | {"model": [1, 2]},
    "numbers as weights": lambda s: s | {"model": {"weight": 1, "bias": 2}},
    "another optimizer": lambda s: s | {"optimizer": {"state": {}, "param_groups": []}},
    "no groups": lambda s: s | {"optimizer": {}},
    "a text as epoch": lambda s: s | {"epoch": "three"},
    "nothing as epoch": lambda s: s | {"epoch": None},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_another_trainings_checkpoint_is_refused(case: str, tmp_path: Path) -> None:
    model, optimizer = training()
    path = tmp_path / "last.pt"
    save_state(path, FOREIGN[case]({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}))
    with pytest.raises(DataError, match=re.escape(str(path)) + ": not a checkpoint of this training") as caught:
        resume_training(path, *training())
    assert "--force" in str(caught.value.hint)
