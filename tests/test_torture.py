"""A small share of `make torture`: the harness in a process of its own, which forks the commands that it kills."""

import re
import subprocess
import sys
from pathlib import Path

import torture
from conftest import REPOSITORY


def test_killed_at_random_moments(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.torture", "--kills", "5", "--fresh", "0", "--variants", "plain"]
    done = subprocess.run([*words, "--work", str(tmp_path / "work")], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^kills: 5 \(", done.stdout, re.MULTILINE)
    assert "faults: 0" in done.stdout


def test_the_harness_sees_what_is_wrong(tmp_path: Path) -> None:
    """A result that differs, a finished file made anew and an epoch that is done twice over are faults; one epoch is not."""
    place, tally = torture.Place(tmp_path), torture.Tally()
    for name in ("cams/a.npz", "labels/a.png"):
        path = place.run / "make-pseudo" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
    log = place.run / "train-cls" / "log.jsonl"
    log.parent.mkdir()
    log.write_text('{"epoch": 1}\n{"step": 3}\n{"epoch": 2}\n')
    before, digests = (torture.finished(place), torture.epochs(place)), torture.digests(place)
    log.write_text(log.read_text() + '{"epoch": 2}\n{"epoch": 3}\n')
    torture.check_work(before, place, tally, "first")
    assert (tally.epochs_redone, tally.faults) == (1, [])
    (place.run / "make-pseudo" / "cams" / "a.npz").unlink()
    (place.run / "make-pseudo" / "cams" / "a.npz").write_bytes(b"2")
    before[1][str(log)] = [1, 2, 3]
    log.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epoch": 2}\n')
    torture.check_work(before, place, tally, "second")
    assert [re.sub(r".*/", "", fault) for fault in tally.faults] == [
        "a.npz was finished and has been made again",
        "log.jsonl: epoch 3 was done, and epoch 2 came next",
    ]
    assert [name for name, digest in torture.digests(place).items() if digests[name] != digest] == ["run/make-pseudo/cams/a.npz"]
