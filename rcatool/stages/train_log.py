"""Where the trainings write what they log: log.jsonl, and with `runtime.tensorboard` an event file beside it."""

from rcatool.config import Config
from rcatool.engine import TrainLog
from rcatool.event_log import FOLDER, EventLog
from rcatool.log_lines import read_log
from rcatool.ranks import rank
from rcatool.run import Run, StepDir


def open_log(run: Run, step: StepDir, config: Config) -> TrainLog:
    """The log of a training step, which is continued where there is one. Raises `SetupError` without tensorboard if it is asked for.

    Event files lie beside the steps, not in them: they are made of the log, at any time, and are no result.
    """
    path = step.path / "log.jsonl"
    mirror = None
    if config.runtime.tensorboard and rank() == 0:
        mirror = EventLog(run.root / FOLDER / step.name, read_log(path)).add
    return TrainLog(path, every=config.runtime.log_every, mirror=mirror)
