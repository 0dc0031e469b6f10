"""Mistakes on the command line, in settings and in settings files: each named in one line, nothing done, nothing lost."""

from pathlib import Path

import pytest
from breaks import grow, remove, replace, undo, write
from broken import Case, Rca, check, set_up, table
from tiny_run import TinyRun


@pytest.fixture(autouse=True)
def _finished_run(rca: Rca, undisturbed: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(undisturbed, monkeypatch)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
CONFIG = r"run/config\.yaml"


@table(
    Case("mistyped command", (), "trian-cls", 2, "no such command 'trian-cls'", "did you mean train-cls"),
    Case("mistyped data set", (), "prepare foldr", 2, "no such command 'foldr'", "did you mean folder"),
    Case("mistyped option", (), "train-cls --devcie cpu", 2, "no such option: --devcie", "did you mean --device"),
    Case("option without value", (), "eval --run", 2, "option '--run' requires an argument", "rca --help"),
    Case("option that must be there", (), "prepare voc", 2, "missing option '--root'", "rca prepare voc --help"),
    Case("a word too many", (), "make-pseudo now", 2, "unexpected extra argument", "rca make-pseudo --help"),
    Case("text for a number option", (), "prepare shapes --seed one", 2, "'--seed': .*valid integer", "rca prepare shapes --help"),
)  # fmt: skip
def test_command_line(rca: Rca, case: Case) -> None:
    check(rca, case)


@table(
    Case("no equals sign", (), "run --set cls.epochs", 2, "--set cls.epochs: expected NAME=VALUE", "--set cls.epochs=5"),
    Case("no name", (), "run --set =5", 2, "expected NAME=VALUE"),
    Case("no value", (), "run --set cls.epochs=", 2, "cls.epochs: expected a whole number, got ''"),
    Case("mistyped setting", (), "run --set cls.epoch=5", 2, r"unknown setting: cls\.epoch", r"did you mean cls\.epochs"),
    Case("setting without its section", (), "run --set momentum=0.5", 2, "unknown setting: momentum", r"cls\.momentum or memory\.momentum"),
    Case("unlike any setting", (), "run --set wibble=5", 2, "unknown setting: wibble", "the sections are data, cls, "),
    Case("a section", (), "run --set cls=5", 2, "cls: expected settings, got 5"),
    Case("text for a number", (), "run --set cls.epochs=many", 2, r"cls\.epochs: expected a whole number, got many"),
    Case("a fraction for a count", (), "run --set cls.epochs=2.5", 2, r"cls\.epochs: expected a whole number, got 2\.5"),
    Case("a number of 5000 digits", (), f"run --set cls.epochs={'9' * 5000}", 2, r"cls\.epochs: expected a whole number, got '9+'"),
    Case("a word for a switch", (), "run --set cls.flip=maybe", 2, r"cls\.flip: expected true or false, got maybe"),
    Case("a list for a number", (), "run --set cls.lr=[1,2]", 2, r"cls\.lr: expected a number, got \[1, 2\]"),
    Case("a number for a list", (), "run --set cam.scales=1", 2, r"cam\.scales: expected a list such as \[1, 2\], got 1"),
    Case("an empty list", (), "run --set cam.scales=[]", 2, r"cam\.scales: expected at least 1 values, got 0"),
    Case("an empty list of rates", (), "run --set seg.aspp_rates=[]", 2, r"seg\.aspp_rates: expected at least 1 values, got 0"),
    Case("a list too long", (), "run --set cls.resize_long=[1,2,3]", 2, r"cls\.resize_long: expected 2 values, got 3"),
    Case("a list that does not end", (), "run --set 'cam.scales=[1, 2'", 2, r"--set cam\.scales:1: not valid YAML"),
    Case("NaN", (), "run --set cls.lr=nan", 2, r"cls\.lr: expected a finite number, got nan"),
    Case("NaN in a list", (), "run --set eval.scales=[1,nan]", 2, r"eval\.scales: expected a finite number"),
    Case("infinity", (), "run --set memory.temperature=inf", 2, r"memory\.temperature: expected a finite number, got inf"),
    Case("infinity in digits", (), "run --set seg.lr=1e400", 2, r"seg\.lr: expected a finite number, got 1e400"),
    Case("below the range", (), "run --set cls.lr=-0.1", 2, r"cls\.lr: expected more than 0, got -0\.1"),
    Case("above the range", (), "run --set pseudo.bg_threshold=1.5", 2, r"pseudo\.bg_threshold: expected at most 1, got 1\.5"),
    Case("above what a float holds", (),
         "run --set cls.weight_decay=1e300", 2, r"cls\.weight_decay: expected at most 1000000000, got 1e300"),
    Case("above what an int holds", (),
         f"run --set pseudo.crf_iterations={2**70}", 2, r"pseudo\.crf_iterations: expected less than 2147483648"),
    Case("a width that no groups fit", (), "run --set seg.head_width=40", 2, r"seg\.head_width: expected a multiple of 16, got 40"),
    Case("a teacher without an average", (), "run --set seg.noise=teacher", 2, r"seg\.noise: the teacher is the average .*set seg\.ema"),
    Case("weights from CAMs for true masks", (),
         "run --set seg.noise=confidence --set seg.labels=truth", 2, r"seg\.noise: .*labels is truth"),
    Case("the best of no scores", (), "run --set seg.keep=best", 2, r"seg\.keep: the best needs scores .*set seg\.validate_every"),
    Case("larger than any photo", (), "run --set seg.resize_scale=[1,1e6]", 2, r"seg\.resize_scale: expected at most 8"),
    Case("a range the wrong way round", (),
         "run --set cls.resize_long=[64,48]", 2, r"cls\.resize_long: 64 > 48, expected \[smallest, largest\]"),
    Case("a seed too large for the generator", (), f"run --set seed={2**70}", 2, "seed: expected less than"),
    Case("unknown network", (), "run --set seg.backbone=resnet5", 2, r"seg\.backbone: 'resnet5' is not one of .*resnet50"),
    Case("a setting no other can be with", (), "run --set cls.output_stride=4", 2, r"cls\.output_stride: '4' is not one of 8, 16"),
)  # fmt: skip
def test_settings(rca: Rca, case: Case) -> None:
    check(rca, case)


@table(
    Case("not YAML", (write("run/config.yaml", "cls: ["),), "run", 2, CONFIG + r":1: not valid YAML"),
    Case("a NUL", (write("run/config.yaml", "cls:\n  lr: \0"),), "status", 2, CONFIG + ".*not valid YAML"),
    Case("not text", (write("run/config.yaml", b"cls: \xff\xfe"),), "eval", 2, CONFIG + r": not UTF-8 text \(byte 5\)"),
    Case("a list", (write("run/config.yaml", "- cls\n"),), "run", 2, CONFIG + ":1: expected NAME: VALUE lines"),
    Case("nested without end", (write("run/config.yaml", "[" * 5000),), "run", 2, CONFIG + ".*not valid YAML"),
    Case("larger than any settings", (grow("run/config.yaml", 2**21),), "run", 2, CONFIG + ": larger than 1 MiB"),
    Case("aliases that multiply", (write("run/config.yaml", BOMB),), "status", 2, CONFIG + r":2: .*aliases \(\*name\) are not allowed"),
    Case("an object to be built", (write("run/config.yaml", "cls: !!python/object/apply:os.abort []"),),
         "run", 2, "tag .*python.* is not allowed"),
    Case("unknown key", (replace("run/config.yaml", "batch_size", "batchsize"),),
         "run", 2, r"unknown setting: cls\.batchsize \(run", r"cls\.batch_size"),
    Case("unknown section", (replace("run/config.yaml", "pseudo:", "psuedo:"),),
         "run", 2, r"unknown setting: psuedo\.", r"did you mean pseudo\."),
    Case("key given twice", (replace("run/config.yaml", "  flip:", "  epochs: 3\n  flip:"),), "run", 2, r"cls\.epochs is given twice"),
    Case("wrong type", (replace("run/config.yaml", "head_lr: ", "head_lr: fast"),),
         "run", 2, r"cls\.head_lr: expected a number, got fast[\d.]+ \(run/config"),
    Case("value out of range", (replace("run/config.yaml", "  stride: ", "  stride: -"),),
         "run", 2, r"cam\.stride: expected at least 1, got -\d+ \(run/config"),
    Case("a folder in its place", (remove("run/config.yaml"), write("run/config.yaml/x")), "run", 2, CONFIG + ": cannot be read"),
    Case("no file", (remove("run/config.yaml"),), "train-seg", 4, "run: no run here", "rca prepare .* --run run"),
)  # fmt: skip
def test_settings_of_the_run(rca: Rca, case: Case) -> None:
    check(rca, case)


def test_a_file_that_does_not_name_its_data_set(rca: Rca) -> None:
    """Its settings of the data hold for the data set of the command; they were dropped once, without a word."""
    write("my.yaml", "data: {shapes_train: 5, shapes_val: 2, shapes_size: 40}\nruntime: {workers: 0}\n")()
    assert rca("prepare", "shapes", "--config", "my.yaml", "--run", "mine").code == 0
    assert len(list(Path("mine/shapes/JPEGImages").iterdir())) == 7


@table(
    Case("mistyped preset", (), "prepare shapes --config shape", 2, "no preset 'shape'; there are: .*shapes", "did you mean shapes"),
    Case("unlike any preset", (), "prepare shapes --config zzz", 2, "no preset 'zzz'", "path of a .yaml file"),
    Case("preset file that is not there", (), "prepare shapes --config my.yaml", 2, r"my\.yaml: cannot be read"),
    Case("preset file that is a folder", (write("my.yaml/x"),), "prepare shapes --config my.yaml", 2, r"my\.yaml: cannot be read"),
    Case("preset file with an unknown key", (write("my.yaml", "seed: 1\nclss:\n  lr: 1\n"),),
         "prepare shapes --config my.yaml", 2, r"clss\.lr \(my\.yaml:3\)"),
    Case("a photo for a preset", (), "prepare shapes --config data/JPEGImages/train_00000.jpg", 2, "jpg: not UTF-8 text"),
)  # fmt: skip
def test_presets(rca: Rca, case: Case) -> None:
    check(rca, case)


@table(
    Case("an unknown device", (undo("train-seg"),),
         "train-seg --device quantum", 6, "'quantum' is not a device", "--device auto, cpu, cuda"),
    Case("a device that is not supported", (undo("train-seg"),),
         "train-seg --device meta", 6, "'meta' is not supported", "--device auto, cpu"),
    Case("a device of no number", (undo("train-seg"),), "train-seg --device cuda:x", 6, "'cuda:x' is not a device", "--device auto, cpu"),
    Case("a GPU too many", (undo("train-seg"),),
         "train-seg --device cuda:99", 6, "no CUDA device 'cuda:99' on this machine", "--device cpu"),
    Case("a GPU too many, in settings", (undo("train-seg"),),
         "run --set runtime.device=cuda:99", 6, "no CUDA device 'cuda:99'", "--device cpu"),
)  # fmt: skip
def test_devices(rca: Rca, case: Case) -> None:
    check(rca, case)
