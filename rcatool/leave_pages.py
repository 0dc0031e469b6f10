"""What a command leaves to look at: the picture of the region memory after `train-cls`, and the run's page after every command.

What a step has made is not lost for a picture or a page that cannot be made: that costs a warning.
"""

from rcatool import console
from rcatool.config import Config
from rcatool.errors import RcaError
from rcatool.loading import limits_watched, load
from rcatool.run import Run

MOST_PHOTOS, OF_A_CLASS = 400, 10  # that are looked at for the region memory


def leave_pages(run: Run, word: str, config: Config) -> None:
    """Write the run's page anew after the command `word`, and first the picture that goes with it.

    Truth is shown only after the commands that read masks anyway: the others never open one.
    """
    from rcatool.report import page, prototypes

    if word == "train-cls" and prototypes.has_prototypes(config) and (run.dir(word) / "final.pt").is_file():
        try:
            _draw_memory(run, config)
        except RcaError as error:
            console.warn(f"no picture of the region memory: {error.message}")
    try:
        page.write_report(run, run.read_config(), truth=word in ("prepare", "eval"))
    except RcaError as error:
        console.warn(f"no report: {error.message}")


def _draw_memory(run: Run, config: Config) -> None:
    from rcatool.data.labels import read_classes

    number = read_classes(run.dir("prepare") / "classes.json").num_classes
    inspect = load("stages.inspect_memory")
    with limits_watched("train-cls"):
        inspect.main(run, config, inspect.Plan(range(number), min(MOST_PHOTOS, OF_A_CLASS * number), run.root / "memory.png"))
