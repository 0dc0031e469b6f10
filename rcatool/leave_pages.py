"""What a command leaves to look at: the picture of the region memory after `train-cls`, and the run's page after every command.

What a step has made is not lost for a picture or a page that cannot be made: that costs a warning. A command that is killed after its
last step has left neither; the page, older than the step's record, tells, and the next command makes up for it.
"""

from pathlib import Path

from rcatool import console
from rcatool.config import Config
from rcatool.errors import RcaError
from rcatool.loading import limits_watched, load
from rcatool.run import Run
from rcatool.steps import STEPS

PAGE = "report.html"  # report.page.NAME, which takes jinja2 to ask for: a command with nothing to do loads none
MOST_PHOTOS, OF_A_CLASS = 400, 10  # that are looked at for the region memory


def pages_due(run: Run) -> bool:
    """Whether a step has been finished since the run's page was written, if it ever was."""
    return any(_is_newer(run.dir(step) / "stage.json", run.root / PAGE) for step in STEPS)


def leave_pages(run: Run, word: str, config: Config) -> None:
    """Write the run's page anew after the command `word`; before the first page of a trained classifier, draw its region memory.

    Truth is shown only after the commands that read masks anyway: the others never open one.
    """
    from rcatool.report import page, prototypes  # jinja2 and Pillow: not for a command that leaves none

    folder = run.dir("train-cls")
    if _is_newer(folder / "stage.json", run.root / PAGE) and prototypes.has_prototypes(config) and (folder / "final.pt").is_file():
        try:
            _draw_memory(run, config)
        except RcaError as error:
            console.warn(f"no picture of the region memory: {error.message}")
    try:
        page.write_report(run, run.read_config(), truth=word in ("prepare", "eval"))
    except RcaError as error:
        console.warn(f"no report: {error.message}")


def _is_newer(record: Path, page: Path) -> bool:
    return record.is_file() and (not page.is_file() or record.stat().st_mtime_ns > page.stat().st_mtime_ns)


def _draw_memory(run: Run, config: Config) -> None:
    from rcatool.data.labels import read_classes

    number = read_classes(run.dir("prepare") / "classes.json").num_classes
    inspect = load("stages.inspect_memory")
    with limits_watched("train-cls"):
        inspect.main(run, config, inspect.Plan(range(number), min(MOST_PHOTOS, OF_A_CLASS * number), run.root / "memory.png"))
