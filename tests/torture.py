"""Kill the pipeline at random moments until it has been killed often enough; what it makes must be what an undisturbed run makes.

`make torture` runs this as a command; `test_torture.py` runs a small share of it. Most commands are forked from this process, which has
imported torch once, so that the kills fall on the work and not on the import; each `--fresh`th is a new interpreter.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "tests" / "tiny.yaml"
NO_RESULTS = {"stage.json", "log.jsonl", "last.pt", "best.pt", "run.log", "report.html", ".lock", "config.yaml"}
PER_PHOTO = {"cams", "labels", "refined", "predictions", "predictions-1", "round-2"}
SIGNALS = (signal.SIGKILL,) * 7 + (signal.SIGTERM, signal.SIGINT, signal.SIGINT)
LONGEST = 300.0  # seconds after which a command hangs

# What is set besides tiny.yaml, and the commands that make everything.
STAGES = (["train-cls"], ["make-pseudo"], ["train-seg"], ["eval"])
RICH = [
    "refine.method=affinity", "refine.affinity_steps=4", "affinity.epochs=2", "affinity.batch_size=4",
    "affinity.crop_size=48", "affinity.crf=none", "affinity.lr=0.02", "cls.accumulate=topk",
    "second.enabled=true", "second.crf=none", "second.confidence=0.6",
]  # fmt: skip
VARIANTS: dict[str, tuple[list[str], Sequence[list[str]]]] = {
    "plain": ([], STAGES),
    "run": ([], (["run"],)),
    "rich": (RICH, STAGES),
}


@dataclass
class Tally:
    """What has happened so far."""

    kills: Counter[str] = field(default_factory=Counter)  # by command
    signals: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    epochs_redone: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a run and its images are."""

    folder: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    def commands(self, variant: str) -> list[list[str]]:
        """The commands of a variant, in order."""
        settings, stages = VARIANTS[variant]
        data = [word for setting in settings for word in ("--set", setting)]
        prepare = ["prepare", "shapes", "--run", str(self.run), "--root", str(self.folder / "data"), "--config", str(CONFIG), *data]
        return [prepare, *([*stage, "--run", str(self.run)] for stage in stages)]


class Command:
    """A command line under way, its output in a file."""

    def __init__(self, words: list[str], output: Path, *, fresh: bool) -> None:
        self.output = output
        output.write_text("")
        self._start = time.monotonic()
        self._process = None
        if fresh:
            with output.open("w") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "rcatool", *words], cwd=REPOSITORY, stdout=file, stderr=file, start_new_session=True
                )
            self.pid = self._process.pid
        else:
            self.pid = os.fork() or self._child(words)

    def _child(self, words: list[str]) -> int:
        code = 130
        try:
            os.setsid()
            sys.argv = ["rca", *words]
            handle = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            from rcatool.cli import main

            code = main(words)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # the exception of a bug in a command; a signal before the command has begun is none
            if not isinstance(sys.exception(), KeyboardInterrupt):
                traceback.print_exc()
                code = 70
        finally:
            os._exit(code)

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal; None if it still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                if self._process is not None:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
                return os.waitstatus_to_exitcode(status)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, 0.005))

    def send(self, number: int, *, group: bool) -> None:
        """Send a signal to the process, or to it and its children."""
        led = group and os.getpgid(self.pid) == self.pid  # not yet, in the first moment
        (os.killpg if led else os.kill)(self.pid, number)

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text(errors="replace")


def undisturbed(place: Place, variant: str) -> list[float]:
    """Make everything without a kill; returns how long each command took, forked."""
    seconds = []
    for words in place.commands(variant):
        before = time.monotonic()
        command = Command(words, place.folder / "output.txt", fresh=False)
        code = command.wait(LONGEST)
        assert code == 0, (words, code, command.text())
        seconds.append(time.monotonic() - before)
    return seconds


def digests(place: Place) -> dict[str, str]:
    """SHA-256 of every result of a run and of its images; a step's own digest by the name of its record."""
    found = {}
    for path in sorted(place.folder.rglob("*")):
        name = path.relative_to(place.folder).as_posix()
        if path.is_file() and path.name not in NO_RESULTS and path.suffix != ".tmp" and name != "output.txt":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "stage.json":
            record = json.loads(path.read_text())
            found[name] = f"{record['status']} {record.get('result')}"
    return found


def finished(place: Place) -> dict[str, tuple[int, int]]:
    """Inode and time of what must not be made again: the photo's files of a step, and the records of steps that are done."""
    found = {}
    for path in place.run.rglob("*"):
        done = path.name == "stage.json" and b'"status": "done"' in path.read_bytes()
        if done or (path.parent.name in PER_PHOTO and path.suffix in (".npz", ".png")):
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns)
    return found


def epochs(place: Place) -> dict[str, list[int]]:
    """The epochs that each training has logged, in order."""
    found = {}
    for path in place.run.rglob("log.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        found[str(path)] = [line["epoch"] for line in lines if "epoch" in line]
    return found


def check_work(before: tuple[dict[str, tuple[int, int]], dict[str, list[int]]], place: Place, tally: Tally, what: str) -> None:
    """Note what an attempt has made again though it was finished."""
    files, logged = before
    now = finished(place)
    tally.faults += [f"{what}: {name} was finished and has been made again" for name, was in files.items() if now.get(name) != was]
    for name, known in epochs(place).items():
        new, old = known[len(logged.get(name, [])) :], logged.get(name, [])
        if new and old:
            redone = old[-1] - new[0] + 1
            tally.epochs_redone += max(redone, 0)
            if redone > 1:
                tally.faults.append(f"{what}: {name}: epoch {old[-1]} was done, and epoch {new[0]} came next")


def attempt(words: list[str], place: Place, rng: random.Random, tally: Tally, *, longest: float, every: int) -> bool:
    """Start a command and kill it after a random time, `longest` at the most; True if it was done before that."""
    tally.attempts += 1
    fresh = every > 0 and tally.attempts % every == 0
    delay = rng.uniform(0, longest + (3.0 if fresh else 0.0))
    signal_number, group = rng.choice(SIGNALS), rng.random() < 0.5
    before = finished(place), epochs(place)
    workers = ["--set", f"runtime.workers={2 if fresh else 0}"]  # processes of its own, which a kill may leave behind
    command = Command([*words, *workers], place.folder / "output.txt", fresh=fresh)
    code = command.wait(delay)
    what = f"{words[0]}, attempt {tally.attempts}, {signal_number.name} after {delay:.2f} s"
    if code is None:
        command.send(signal_number, group=group)
        code = command.wait(LONGEST)
        tally.kills[words[0]] += 1
        tally.signals[signal_number.name] += 1
        if code is None:
            command.send(signal.SIGKILL, group=True)
            command.wait(LONGEST)
            tally.faults.append(f"{what}: does not end")
        elif code not in (0, 130, -signal_number):
            tally.faults.append(f"{what}: exit code {code}: {command.text()[-300:]}")
        elif "Traceback" in command.text() and not fresh:  # a new interpreter that has not reached our code cannot say it better
            tally.faults.append(f"{what}: {command.text()[-600:]}")
    elif code != 0:
        tally.faults.append(f"{what}: not killed, exit code {code}: {command.text()[-600:]}")
        raise SystemExit("\n".join(tally.faults))
    check_work(before, place, tally, what)
    return code == 0


def trial(place: Place, variant: str, seconds: list[float], rng: random.Random, tally: Tally, *, most: int, every: int) -> None:
    """Make everything in `place` in spite of kills, of which there are at most `most` in all."""
    share = -(-most // len(seconds))  # of a few kills, each command gets some
    for words, took in zip(place.commands(variant), seconds, strict=True):
        for tries in itertools.count():
            if tally.kills.total() >= most or tries >= share:
                command = Command(words, place.folder / "output.txt", fresh=False)
                code = command.wait(LONGEST)
                assert code == 0, (words, code, command.text())
                break
            # Longer each time, for what does not resume in the middle.
            if attempt(words, place, rng, tally, longest=took * (0.5 + 0.15 * tries), every=every):
                break


def torture(folder: Path, *, kills: int, seed: int, variants: Sequence[str], every: int) -> Tally:
    """Trials until `kills` kills; each must end in the bytes of the undisturbed run of its variant."""
    rng, tally, trials = random.Random(seed), Tally(), 0
    references = {}
    for variant in variants:
        place = Place(folder / f"undisturbed-{variant}")
        place.folder.mkdir(parents=True)
        references[variant] = undisturbed(place, variant), digests(place)
        print(f"{variant}: undisturbed in {sum(references[variant][0]):.1f} s, {len(references[variant][1])} results", flush=True)
    while tally.kills.total() < kills:
        variant = variants[trials % len(variants)]
        place = Place(folder / f"trial-{trials}")
        place.folder.mkdir()
        (seconds, expected), known = references[variant], len(tally.faults)
        trial(place, variant, seconds, rng, tally, most=kills, every=every)
        made = digests(place)
        wrong = sorted(name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name))
        tally.faults += [f"trial {trials} ({variant}): {name} differs" for name in wrong]
        tally.faults += [f"trial {trials}: left behind: {path}" for path in place.folder.rglob("*.tmp")]
        for fault in tally.faults[known:]:  # at once: the harness may be stopped before its end
            print(f"  {fault}", flush=True)
        print(f"trial {trials} ({variant}): {tally.kills.total()} kills so far, {len(tally.faults)} faults", flush=True)
        if not wrong:
            shutil.rmtree(place.folder)
        trials += 1
    return tally


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", type=int, default=6, metavar="N", help="start each Nth command in a new interpreter; 0: none")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder or none; removed at the end if all is well")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import rcatool.stages.eval
    import rcatool.stages.make_pseudo
    import rcatool.stages.prepare
    import rcatool.stages.train_cls
    import rcatool.stages.train_seg  # noqa: F401 (imported once, for all commands that are forked)

    arguments.work.mkdir(parents=True, exist_ok=True)
    tally = torture(arguments.work, kills=arguments.kills, seed=arguments.seed, variants=arguments.variants, every=arguments.fresh)
    print(f"kills: {tally.kills.total()} ({', '.join(f'{k} {v}' for k, v in sorted(tally.kills.items()))})")
    print(f"signals: {', '.join(f'{k} {v}' for k, v in sorted(tally.signals.items()))}")
    print(f"epochs made again: {tally.epochs_redone}; faults: {len(tally.faults)}")
    for fault in tally.faults:
        print(f"  {fault}")
    if not tally.faults:
        shutil.rmtree(arguments.work)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
