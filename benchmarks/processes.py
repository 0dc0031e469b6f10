"""Training by 1, 2 and 4 processes: the same memory, network and score, and what a photo costs.

    python benchmarks/processes.py RUN --work DIR [--procs 1 2 4] [--out FILE]

RUN is prepared (rca prepare ... with few photos). For each number of processes copies of it are trained for one and for three epochs; a
photo's processor time is the difference of the two by the photos that it stands for, so that starting up does not count, and neither does
what else the machine does. Then CAMs are made (plain, without CRF) and scored. On a CPU with fewer cores than processes, clock times say
nothing.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from rcatool.files import atomic_write

SHORT, LONG = 1, 3
PLAIN = ("cam.region_rounds=0", "cam.scales=[1.0]", "refine.method=none", "pseudo.crf=none", "runtime.workers=0", "runtime.precision=fp32",
         "cls.validate_every=0")  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--procs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    photos = sum('"split": "train"' in line for line in (options.run / "prepare" / "manifest.jsonl").read_text().splitlines())
    rows: list[dict[str, Any]] = []
    first: dict[str, torch.Tensor] | None = None
    for count in options.procs:
        seconds = {epochs: _train(options, count, epochs) for epochs in (SHORT, LONG)}
        run = options.work / f"{count}-{LONG}"
        state = torch.load(run / "train-cls" / "final.pt", weights_only=True)["model"]
        first = first or state
        for word in ("make-pseudo", "eval"):
            _rca(word, "--run", str(run))
        score = json.loads((run / "eval" / "metrics.json").read_text())["cam"]["miou"]
        rows.append({
            "processes": count, "processor_seconds_per_photo": round((seconds[LONG] - seconds[SHORT]) / (photos * (LONG - SHORT)), 4),
            "cam_miou": round(100 * score, 3), "memory_differs_by": _differs(state, first, memory=True),
            "weights_differ_by": _differs(state, first, memory=False),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    if options.out:
        about = {"photos": photos, "threads": os.environ.get("OMP_NUM_THREADS"), "torch": torch.__version__}
        atomic_write(options.out, json.dumps({**about, "rows": rows}, indent=1) + "\n")


def _train(options: argparse.Namespace, count: int, epochs: int) -> float:
    """Processor seconds of all processes."""
    run = options.work / f"{count}-{epochs}"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    shutil.copytree(options.run / "prepare", run / "prepare")
    shutil.copy(options.run / "config.yaml", run)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    given = [word for one in (*PLAIN, f"cls.epochs={epochs}") for word in ("--set", one)]
    _rca("train-cls", "--run", str(run), "--procs", str(count), *given)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _rca(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "rcatool", *words, "--quiet"], check=True)


def _differs(state: dict[str, torch.Tensor], first: dict[str, torch.Tensor], *, memory: bool) -> float:
    """The largest difference of floats, of the region memory or of all else."""
    names = [name for name, value in state.items() if value.is_floating_point() and name.startswith("memory.") == memory]
    return max((float((state[name] - first[name]).abs().max()) for name in names), default=0.0)


if __name__ == "__main__":
    main()
