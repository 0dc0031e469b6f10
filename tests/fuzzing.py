"""Feed the readers broken files: what comes out is a correct result or an RcaError, never another exception, a crash or a hang.

`make fuzz` runs this as a command; `test_fuzz.py` runs a small share of it. The inputs are whole files that were changed at random.
Those that reach lines of the package that none before has reached are kept, and changed further. With `--engine atheris` the
library of that name (pip install atheris) chooses the changes.
"""

import argparse
import io
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from rcatool.errors import RcaError

PACKAGE = str(Path(__file__).resolve().parents[1] / "rcatool") + os.sep
LONGEST = 20  # seconds of computing for one input
MEMORY = 3 << 30  # bytes that one input may take
TOKENS = (
    b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"-1", b"0", b"1e999", b"nan", b"NaN", b"null",
    b"true", b"{}", b"[]", b'""', b'"', b"'", b"[", b"{", b",", b":", b"\n", b"\r", b"\t", b" ", b"&a", b"*a", b"!!python/object", b"..",
    b"/", b"\\", b"\\ud800", b"\xed\xa0\x80", "é\u2028".encode(), b"1" * 40, b"9" * 5000, b"(", b")", b"\x85", b"\x86", b"t", b"u", b"s",
    b"R", b"b", b"q\x00", b"h\x00", b".", b"\xef\xbb\xbf", b"[" * 3000, b'{"a":' * 3000,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader of files of one kind: the name's suffix, whole files to begin with, and what makes a file of an input."""

    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    wrap: Callable[[bytes], bytes] = bytes


def png_with_checksums(data: bytes) -> bytes:
    """A PNG with the right checksum after each chunk, so that a change gets past the first check."""
    out, place = data[:8], 8
    while place + 12 <= len(data):
        length = min(int.from_bytes(data[place : place + 4], "big"), len(data) - place - 12)
        kind_and_content = data[place + 4 : place + 8 + length]
        out += struct.pack(">I", length) + kind_and_content + struct.pack(">I", zlib.crc32(kind_and_content))
        place += 12 + length
    return out


def archive(**members: bytes) -> Callable[[bytes], bytes]:
    """What puts an input into a zip archive, under the name whose content is empty, beside the other members."""

    def wrap(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, content in members.items():
                file.writestr(name, content or data)
        return buffer.getvalue()

    return wrap


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """Arrays as an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pictures(*formats: str) -> list[bytes]:
    """Small pictures, turned by EXIF where the format can say so."""
    image = Image.fromarray(np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3) * 2)
    exif = Image.Exif()
    exif[274] = 6
    found = []
    for name in formats:
        buffer = io.BytesIO()
        image.save(buffer, name, **({"exif": exif} if name in ("JPEG", "PNG", "WEBP") else {}))
        found.append(buffer.getvalue())
    return found


def run(target: Target, data: bytes, folder: Path) -> str:
    """Read an input; "" if the reader did what it may, else what it did."""
    path = folder / f"input{target.suffix}"
    path.write_bytes(target.wrap(data))
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        target.read(path)
    except RcaError as error:
        return "" if len(error.message) < 2000 else f"a message of {len(error.message)} characters"
    except TimeoutError:
        return f"hangs for more than {LONGEST} s"
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is the finding)
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "a file was executed" if (folder / "hacked").exists() else ""


def _too_long(*_: object) -> None:
    raise TimeoutError


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change a file in one to four places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(out) + 1)
        length = min(rng.choice((1, 1, 2, 4, 16, 100)), len(out) - place)
        kind = rng.randrange(7)
        if kind == 0 and length:
            out[rng.randrange(place, place + length)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            del out[place : place + length]
        elif kind == 3:
            out[place:place] = rng.choice(TOKENS)
        elif kind == 4:
            token = rng.choice(TOKENS)
            out[place : place + len(token)] = token
        elif kind == 5:
            out[place:place] = out[place : place + length] * rng.choice((1, 2, 50))
        else:
            start = rng.randrange(len(other) + 1)
            out[place:place] = other[start : start + rng.choice((4, 30, 300))]
    return bytes(out[: 1 << 16])


def lines_reached(work: Callable[[], object], seen: set[tuple[str, int]]) -> bool:
    """Whether `work` reaches lines of the package that are not in `seen`, to which they are added."""
    before = len(seen)

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return len(seen) > before


def fuzz(target: Target, *, runs: int, seed: int, folder: Path) -> tuple[int, dict[str, bytes]]:
    """Try `runs` inputs; returns how many lines of the package they reached, and an input for each kind of failure."""
    rng, seen, failures = random.Random(seed), set(), {}
    corpus = target.seeds()
    for number in range(runs + len(corpus)):
        data = corpus[number] if number < len(corpus) else mutate(rng.choice(corpus), rng.choice(corpus), rng)
        found: list[str] = []
        is_new = lines_reached(lambda data=data, found=found: found.append(run(target, data, folder)), seen)
        if found[0]:
            failures.setdefault(found[0][:60], data)
        elif is_new and len(corpus) < 500:
            corpus.append(data)
    return len(seen), failures


def with_atheris(target: Target, *, runs: int, seed: int, folder: Path) -> None:
    """Let atheris choose the inputs; it ends the process, with a code other than 0 at the first failure."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(data)

    def one(data: bytes) -> None:
        found = run(target, data, folder)
        if found:
            raise AssertionError(found)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-runs={runs}", f"-seed={seed + 1}", "-max_len=65536", "-rss_limit_mb=0", str(corpus)], one)
    atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    parser.add_argument("--keep", type=Path, help="folder for inputs that fail")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    total = failed = 0
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # a file that is executed would leave a trace here
            run(TARGETS[name], TARGETS[name].seeds()[0], Path(folder))  # imports what it needs, before memory is limited
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
            if options.engine == "atheris":
                with_atheris(TARGETS[name], runs=options.runs, seed=options.seed, folder=Path(folder))
            start = time.monotonic()
            lines, failures = fuzz(TARGETS[name], runs=options.runs, seed=options.seed, folder=Path(folder))
            os.chdir("/")
        took = time.monotonic() - start
        print(f"{name}: {options.runs} inputs in {took:.0f} s, {lines} lines reached, {len(failures)} failures", flush=True)
        total, failed = total + options.runs, failed + len(failures)
        for number, (what, data) in enumerate(failures.items()):
            print(f"  {what}\n  {data[:200]!r}", flush=True)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{name}-{number}{TARGETS[name].suffix}").write_bytes(TARGETS[name].wrap(data))
    print(f"inputs tried: {total}; kinds of failure: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
