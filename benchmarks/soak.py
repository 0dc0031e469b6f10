"""Does a long run stay small? Memory, open files, shared memory and logs over many steps and photos, on generated images.

    python benchmarks/soak.py --steps 1000 --photos 5000

Trains both networks for that many steps, exports CAMs of that many photos and predicts as many, in processes that are watched twice a
second. What is compared is the second third of each command's samples with its last: the first third is still warming up.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "tests" / "tiny.yaml"
LONG = 150  # samples: of a command that is done sooner, a good part is the import of torch


def shared(pids: set[int]) -> int:
    """The entries of /dev/shm that these processes have made: torch names them by its process."""
    return sum(name.startswith("torch_") and int(name.split("_")[1]) in pids for name in os.listdir("/dev/shm"))


def sample(pid: int, seen: set[int]) -> tuple[float, int, int]:
    """Resident MiB, open files and entries of /dev/shm of a process and its children, which are added to `seen`."""
    pids, rss, files = [pid], 0, 0
    while pids:
        one = pids.pop()
        seen.add(one)
        try:
            pids += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            rss += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            files += len(os.listdir(f"/proc/{one}/fd"))
        except OSError:  # ended between two looks
            continue
    return rss / 2**20, files, shared(seen)


def watch(words: list[str]) -> dict[str, Any]:
    """Run a command; what it took, in the second third of its time and in the last."""
    before, samples, seen = time.monotonic(), [], set[int]()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, "-m", "rcatool", *words], cwd=ROOT, stdout=output, stderr=output)
        while process.poll() is None:
            samples.append(sample(process.pid, seen))
            time.sleep(0.5)
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, text
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third : -2] or samples[-3:]
    return {
        "command": words[0], "seconds": round(time.monotonic() - before), "samples": len(samples),
        "rss_mib": [round(median(s[0] for s in part), 1) for part in (middle, last)],
        "open_files": [int(median(s[1] for s in part)) for part in (middle, last)],
        "shared_memory": [max(s[2] for s in part) for part in (middle, last)], "shared_memory_left": shared(seen),
        "processes": len(seen), "output_bytes": len(text),
    }  # fmt: skip


def largest(run: Path) -> dict[str, float]:
    """The largest absolute value of each network: of its weights, running statistics and memory; infinite where one is not finite."""
    from rcatool.checkpoint import load_state

    found = {}
    for word in ("train-cls", "train-seg"):
        state = load_state(run / word / "final.pt")["model"]
        for name, values in state.items():
            kind = f"{word} memory" if name.startswith("memory.") else f"{word} running" if "running" in name else f"{word} weights"
            if values.is_floating_point() and values.numel():
                found[kind] = max(found.get(kind, 0.0), float(values.abs().max().nan_to_num(float("inf"))))
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1, help="processes that read photos")
    parser.add_argument("--work", type=Path, default=Path("runs/soak"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--most-growth", type=float, default=0.05, help="share of its memory by which a command may grow")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work = options.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    run, few = work / "run", work / "few"
    tiny = ["--config", str(CONFIG), "--set", "data.shapes_size=32", "--set", "cls.crop_size=32", "--set", "seg.crop_size=32"]
    tiny += ["--set", "cls.resize_long=[32, 40]", "--set", "cls.epochs=1", "--set", "seg.epochs=1", "--set", "cam.region_rounds=0"]
    counts = ["--set", f"data.shapes_train={options.photos}", "--set", "data.shapes_val=8", "--set", f"runtime.workers={options.workers}"]
    batches = [f"cls.batch_size={max(1, options.photos // options.steps)}", f"seg.batch_size={max(1, options.photos // options.steps)}"]
    sized = [word for batch in batches for word in ("--set", batch)]
    found = [watch(["prepare", "shapes", "--run", str(run), "--root", str(work / "data"), *tiny, *counts, *sized])]
    for word in ("train-cls", "make-pseudo", "train-seg"):
        found.append(watch([word, "--run", str(run)]))
    found.append(watch(["export", "network", "--run", str(run), "--out", str(work / "network.safetensors")]))
    found.append(watch(["predict", str(work / "data" / "JPEGImages"), "--model", str(work / "network.safetensors"), "--out", str(few)]))
    logs = {str(path.relative_to(work)): path.stat().st_size for path in sorted(work.rglob("*log*")) if path.is_file()}
    masks = [int(np.asarray(Image.open(path)).max()) for path in sorted(few.rglob("*.png"))[:50]]
    grown = [one["command"] for one in found if one["samples"] > LONG and one["rss_mib"][1] > one["rss_mib"][0] * (1 + options.most_growth)]
    leaks = [one["command"] for one in found if one["open_files"][1] > one["open_files"][0] + 2 or one["shared_memory_left"] > 0]
    asked = {name: getattr(options, name) for name in ("steps", "photos", "workers")}
    values = largest(run)
    document = asked | {"commands": found, "log_bytes": logs, "largest": values, "classes_predicted": max(masks)}
    for one in found:
        print(json.dumps(one))
    print(f"logs: {json.dumps(logs)}; largest values: {json.dumps(values)}; grown: {grown}; leaks: {leaks}")
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if grown or leaks or max(values.values()) == float("inf") else 0


if __name__ == "__main__":
    sys.exit(main())
