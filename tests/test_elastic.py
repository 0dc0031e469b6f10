"""torchrun --max-restarts: a process that dies once, and a training that goes on from its last finished epoch."""

import os
import subprocess
import sys
from pathlib import Path

from tiny_run import TinyRun, record

from rcatool.checkpoint import load_state

DIES_ONCE = """
import os
from pathlib import Path
from rcatool import engine
from rcatool.cli import entry

dead, set_lr, steps = Path(os.environ["DEAD"]), engine.set_lr, iter(range(10**9))

def dying(*arguments):
    if os.environ.get("RANK") == "1" and not dead.exists() and next(steps) == 9:
        dead.touch()
        os._exit(9)
    set_lr(*arguments)

engine.set_lr = dying
if __name__ == "__main__":
    entry()
"""


def test_a_restart_goes_on_from_the_last_epoch(undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-cls")
    (tmp_path / "dies_once.py").write_text(DIES_ONCE)
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3", "--monitor-interval", "0.2"]
    here = {"RCA_RUN": str(run), "DEAD": str(tmp_path / "dead"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words, str(tmp_path / "dies_once.py"), "train-cls"],
        env={**os.environ, **here}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dead").exists()
    assert "resuming after epoch 1" in (run / "run.log").read_text()
    found, expected = (load_state(path / "train-cls" / "final.pt")["model"] for path in (run, undisturbed.path))
    worst = max(float((found[name].double() - expected[name].double()).abs().max()) for name in found)
    assert worst < 2e-3  # rounding of two processes, as in test_run_processes
    assert record(run, "train-cls")["info"]["processes"] == 2
