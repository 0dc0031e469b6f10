"""How long `rca prepare` takes, and how much memory, on data sets with the full number of tiny pictures.

    python benchmarks/full_size_trees.py coco|voc [--keep DIR] [--workers 2]

Makes the tree in a temporary folder (or in DIR, where it is used again), runs the command in a process of its own and prints JSON.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from coco_tree import make_coco_tree
from voc_tree import make_voc_tree

TREES: dict[str, Callable[[Path], list[str]]] = {"coco": make_coco_tree, "voc": make_voc_tree}


def measure(make_tree: Callable[[Path], list[str]], folder: Path, workers: int) -> dict[str, float]:
    """Return the seconds and the peak MiB of the tree's `rca prepare` in a new run; CalledProcessError where it fails."""
    start = time.monotonic()
    arguments = make_tree(folder)
    shutil.rmtree(folder / "rcatool-masks", ignore_errors=True)
    load, made = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as run:
        command = [sys.executable, "-m", "rcatool", "prepare", *arguments, "--run", run, "--set", f"runtime.workers={workers}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - made
        photos = len(Path(run, "prepare", "manifest.jsonl").read_text().splitlines())
        peak = json.loads(Path(run, "prepare", "stage.json").read_text())["info"]["peak_memory_mib"]  # of the largest process
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "photos": photos, "make_tree_s": round(made - start, 1), "prepare_s": round(seconds, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1), "load_before": round(load, 1),
        "peak_mib": peak,
    }  # fmt: skip


def main() -> None:
    """Measure one kind of tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", choices=TREES)
    parser.add_argument("--keep", type=Path, help="folder for the tree, used again if it is there")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        print(json.dumps({"tree": options.tree, "workers": options.workers, **measure(TREES[options.tree], folder, options.workers)}))


if __name__ == "__main__":
    main()
