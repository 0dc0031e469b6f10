"""Ways to break the files of a test's own folder, which has a run in `run` and its images in `data`."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tiny_run import STEPS

RUN = Path("run")
Break = Callable[[], object]


class Hostile:
    """Writes a file `hacked` when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("hacked", "w")


def undo(step: str) -> Break:
    """As if `step` and those after it had never begun."""
    return lambda: [shutil.rmtree(RUN / name) for name in STEPS[STEPS.index(step) :]]


def write(path: str, content: str | bytes = b"") -> Break:
    """Put a file there, in place of what is there."""

    def broken() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return broken


def cut(path: str) -> Break:
    """Leave the first half of a file only."""
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size // 2])


def spoil(path: str) -> Break:
    """Overwrite the second half of a file; its size stays, so that a look at sizes does not tell."""

    def broken() -> None:
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2] + b"\x55" * (len(data) - len(data) // 2))

    return broken


def remove(path: str) -> Break:
    """Delete a file or folder."""
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def rename(path: str, to: str) -> Break:
    """Give a file another name."""
    return lambda: Path(path).rename(to)


def replace(path: str, old: str, new: str) -> Break:
    """Replace the first occurrence of a text in a file."""

    def broken() -> None:
        text = Path(path).read_text()
        assert old in text, f"{path} has no {old}"
        Path(path).write_text(text.replace(old, new, 1))

    return broken


def grow(path: str, size: int) -> Break:
    """Make a file as large as `size` bytes, without taking up that room."""

    def broken() -> None:
        with open(path, "ab") as handle:
            handle.truncate(size)

    return broken


def unnoticed(step: str) -> Break:
    """Let the record of a step say that its files have the sizes that they have now, as if the disk had garbled them later."""

    def broken() -> None:
        path = RUN / step / "stage.json"
        record = json.loads(path.read_bytes())
        record["inventory"]["sizes"] = {name: (RUN / step / name).stat().st_size for name in record["inventory"]["sizes"]}
        path.write_text(json.dumps(record))

    return broken


def unfinished(step: str) -> Break:
    """As if `step` had been stopped before its end."""

    def broken() -> None:
        path = RUN / step / "stage.json"
        record = json.loads(path.read_bytes())
        path.write_text(json.dumps({key: record[key] for key in ("fingerprint", "settings", "inputs", "outside")} | {"status": "running"}))

    return broken


def change_npz(path: str, change: Callable[[dict[str, Any]], object]) -> Break:
    """Change the arrays of an npz file."""

    def broken() -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        change(arrays)
        np.savez(path, **arrays)

    return broken


def save(value: Any, path: str) -> Break:
    """Write a checkpoint that holds `value`."""

    def broken() -> None:
        import torch

        torch.save(value, path)

    return broken


def change_checkpoint(path: str, change: Callable[[dict[str, Any]], object]) -> Break:
    """Change what a checkpoint holds."""

    def broken() -> None:
        import torch

        state = torch.load(path, weights_only=True)
        change(state)
        save(state, path)()

    return broken


def png(width: int, height: int, *, colour: int = 2) -> bytes:
    """The start of a PNG of any size, with a single row of pixels, if that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
