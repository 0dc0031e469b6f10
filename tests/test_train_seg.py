"""train-seg: all that it can keep survives a stop, validation changes nothing, true masks as labels, and what it says of bad luck."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result
from PIL import Image
from test_isolation import garbage, noise
from test_resume import stop_at
from tiny_run import TinyRun, assign, prepare_arguments, record
from torch import Tensor, nn

from rcatool import engine
from rcatool.checkpoint import load_state
from rcatool.config import Config
from rcatool.config_seg import Seg
from rcatool.models.average import WeightAverage
from rcatool.models.deeplab import SegDesign, build_seg
from rcatool.models.seg_loss import seg_loss
from rcatool.run import Run
from rcatool.stages import train_seg
from rcatool.stages.networks import seg_design
from rcatool.stages.seg_step import StepLoss, Teacher
from rcatool.stages.seg_validation import Best
from rcatool.steps import in_force, is_needed, settings_used

Rca = Callable[..., Result]

EVERYTHING = (
    "seg.head=deeplab-v3+", "seg.head_width=16", "seg.input_scales=[0.5]", "seg.loss=balanced", "seg.ema=0.8", "seg.noise=teacher",
    "seg.noise_start=1", "seg.teacher_confidence=0.3", "seg.validate_every=1", "seg.keep=best",
)  # fmt: skip
TUNE = ("val_00000", "val_00002", "val_00004")


@pytest.fixture(scope="session")
def tuned(undisturbed: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run with three tune photos that has its pseudo labels; neither it nor its images must be changed."""
    from rcatool.cli import main

    folder = tmp_path_factory.mktemp("tuned")
    tiny = TinyRun(folder / "run", folder / "data")
    shutil.copytree(undisturbed.data, tiny.data)
    lists = tiny.data / "ImageSets" / "Segmentation"
    names = (lists / "val.txt").read_text().split()
    (lists / "tune.txt").write_text("\n".join(TUNE))
    (lists / "rest.txt").write_text("\n".join(name for name in names if name not in TUNE))
    chosen = assign("data.train_list=train", "data.val_list=rest", "data.tune_list=tune")
    for command in (["prepare", "voc", *prepare_arguments(*tiny)[2:], *chosen], ["train-cls"], ["make-pseudo"]):
        assert main([*command, *([] if "--run" in command else ["--run", str(tiny.path)])]) == 0
    return tiny


@pytest.fixture
def here(tuned: TinyRun, tmp_path: Path) -> TinyRun:
    """A copy of it, images and all."""
    shutil.copytree(tuned.data, tmp_path / "data")
    shutil.copytree(tuned.path, tmp_path / "run")
    return TinyRun(tmp_path / "run", tmp_path / "data")


def final(run: Path) -> dict[str, Any]:
    return load_state(run / "train-seg" / "final.pt")


def same_weights(this: Path, other: Path) -> bool:
    one, two = final(this)["model"], final(other)["model"]
    assert list(one) == list(two)
    return all(torch.equal(one[name], two[name]) for name in one)


def log_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "train-seg" / "log.jsonl").read_text().splitlines()]


def tune_scores(run: Path) -> list[float]:
    return [line["tune_miou"] for line in log_lines(run) if "tune_miou" in line]


@pytest.fixture(scope="session")
def straight(tuned: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that training can keep, undisturbed."""
    from rcatool.cli import main

    run = tmp_path_factory.mktemp("straight") / "run"
    shutil.copytree(tuned.path, run)
    assert main(["train-seg", "--run", str(run), *assign(*EVERYTHING)]) == 0
    return run


def test_all_that_training_keeps(straight: Path) -> None:
    about, scores = record(straight, "train-seg")["info"], tune_scores(straight)
    assert len(scores) == 3
    assert about["tune_miou"] == pytest.approx(max(scores), abs=1e-6)
    assert about["epoch"] == 1 + scores.index(max(scores))
    assert sorted(path.name for path in (straight / "train-seg").iterdir()) == ["final.pt", "log.jsonl", "stage.json"]
    assert [set(line) & {"corrected"} for line in log_lines(straight) if "loss" in line] == [set(), {"corrected"}, {"corrected"}]
    made = final(straight)
    net = build_seg(SegDesign(**made["design"]), len(made["classes"]))
    net.load_state_dict(made["model"])
    assert net(torch.zeros(1, 3, 48, 48)).shape == (1, len(made["classes"]) + 1, 12, 12)


def test_frozen_early_layers_keep_the_values_they_began_with(rca: Rca, here: TinyRun) -> None:
    assert rca("train-seg", "--run", here.path, *assign("seg.freeze_early=true", "seg.freeze_bn=false")).code == 0
    config, made = Run(here.path).read_config(), final(here.path)
    torch.manual_seed(config.seed)
    began = build_seg(seg_design(config.seg), len(made["classes"]))
    early = {id(value) for layer in began.backbone.early_layers for value in (*layer.parameters(), *layer.buffers())}
    kept = {name for name, value in began.state_dict(keep_vars=True).items() if id(value) in early}
    moved = {name for name, value in began.state_dict().items() if not torch.equal(value, made["model"][name])}
    assert kept
    assert not kept & moved
    assert {name for name, _ in began.named_parameters()} - kept <= moved


def test_the_classifier_s_backbone_as_a_start(rca: Rca, here: TinyRun) -> None:
    still = assign("seg.lr=1e-12", "seg.freeze_bn=true", "seg.epochs=1", "seg.labels=truth")
    trained = load_state(here.path / "train-cls" / "final.pt")["model"]

    def distance() -> float:
        made = final(here.path)["model"]
        return max(float((made[key] - value).abs().max()) for key, value in trained.items() if key.startswith("backbone."))

    assert rca("train-seg", "--run", here.path, *still).code == 0
    assert distance() > 0.01
    assert rca("train-seg", "--run", here.path, *assign("seg.weights=train-cls")).code == 0
    assert distance() < 1e-6
    (here.path / "train-cls" / "stage.json").unlink()
    done = rca("train-seg", "--run", here.path)
    assert done.code == 4
    assert "train-seg needs the output of train-cls" in done.err


@pytest.mark.parametrize(
    ("name", "number", "late"),
    [("last.pt", 2, False), ("last.pt", 2, True), ("best.pt", 1, True), ("final.pt", 1, True), ("train-seg/stage.json", 2, False)],
)
def test_stopped_with_all_that_training_keeps(
    rca: Rca, tuned: TinyRun, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, late: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned.path, run)
    with monkeypatch.context() as patch:
        stop_at(patch, name, number, late=late)
        assert rca("train-seg", "--run", run, *assign(*EVERYTHING)).code == 130
    assert rca("train-seg", "--run", run).code == 0
    assert (run / "train-seg" / "final.pt").read_bytes() == (straight / "train-seg" / "final.pt").read_bytes()
    assert record(run, "train-seg")["info"]["epoch"] == record(straight, "train-seg")["info"]["epoch"]


def test_an_average_that_teaches_survives_a_stop(rca: Rca, tuned: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last weights: they follow from every average before them, which the best, if it came early, does not.
    set_lr, count, settings = engine.set_lr, itertools.count(1), assign(*EVERYTHING, "seg.keep=last")
    runs = [tmp_path / name for name in ("straight", "stopped")]
    for run in runs:
        shutil.copytree(tuned.path, run)
    assert rca("train-seg", "--run", runs[0], *settings).code == 0

    def stopping(*arguments: Any) -> None:
        if next(count) == 7:  # of 3 x 4
            raise KeyboardInterrupt
        set_lr(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "set_lr", stopping)
        assert rca("train-seg", "--run", runs[1], *settings).code == 130
    again = rca("train-seg", "--run", runs[1])
    assert "resuming after epoch 1" in again.err
    assert len({(run / "train-seg" / "final.pt").read_bytes() for run in runs}) == 1


@pytest.fixture(scope="session")
def plain(tuned: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run trained with the settings of all tests, without validation."""
    from rcatool.cli import main

    run = tmp_path_factory.mktemp("plain") / "run"
    shutil.copytree(tuned.path, run)
    assert main(["train-seg", "--run", str(run)]) == 0
    return run


def masks_of(data: Path, names: Sequence[str]) -> list[Path]:
    masks = [path for path in sorted((data / "SegmentationClassAug").iterdir()) if path.stem.startswith(tuple(names))]
    assert masks
    return masks


def test_validation_reads_tune_masks_only_and_changes_no_weight(rca: Rca, plain: Path, here: TinyRun) -> None:
    for mask in masks_of(here.data, ("train", "val_00001", "val_00003", "val_00005")):
        garbage(mask)  # of train and val: whoever reads one fails
    settings = assign(f"data.root={here.data}", "seg.validate_every=2")
    found = rca("train-seg", "--run", here.path, *settings)
    assert found.code == 0
    assert "train-seg: epoch 2/3 done, mIoU on 3 tune photos " in found.err
    assert same_weights(here.path, plain)
    scores = tune_scores(here.path)
    assert [line["epoch"] for line in log_lines(here.path) if "tune_miou" in line] == [2, 3]

    for mask in masks_of(here.data, TUNE):
        noise(mask)
    assert rca("train-seg", "--run", here.path, "--force").code == 0
    assert same_weights(here.path, plain)
    assert tune_scores(here.path) != scores

    for mask in masks_of(here.data, TUNE):
        blank(mask, 255)
    nothing = rca("train-seg", "--run", here.path, "--force")
    assert (nothing.code, nothing.err.splitlines()[-2]) == (3, "error: the masks of the tune photos have no pixel that counts")

    for mask in masks_of(here.data, TUNE):
        garbage(mask)
    assert rca("train-seg", "--run", here.path, *assign("seg.validate_every=0")).code == 0
    assert same_weights(here.path, plain)
    assert rca("train-seg", "--run", here.path, *assign("seg.validate_every=1")).code == 3


def test_validation_is_what_eval_finds(rca: Rca, here: TinyRun) -> None:
    settings = assign(f"data.root={here.data}", "seg.validate_every=1", "seg.ema=0.7", "eval.scales=[1.0]", "eval.flip=false")
    assert rca("train-seg", "--run", here.path, *settings).code == 0
    assert rca("eval", "--run", here.path).code == 0
    metrics = json.loads((here.path / "eval" / "metrics.json").read_text())
    assert tune_scores(here.path)[-1] == pytest.approx(metrics["seg"]["tune"]["miou"], abs=1e-6)


def test_the_average_of_the_weights_is_the_result(
    rca: Rca, plain: Path, tuned: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, networks = tmp_path / "run", []
    states: list[dict[str, Tensor]] = []
    shutil.copytree(tuned.path, run)
    build, step = train_seg.pretrained_seg, torch.optim.SGD.step

    def building(*arguments: Any, **options: Any) -> nn.Module:
        networks.append(build(*arguments, **options))
        return networks[-1]

    def stepping(self: torch.optim.SGD, *arguments: Any) -> None:
        if not states:
            states.append({name: value.clone() for name, value in networks[-1].state_dict().items()})
            for name, value in states[0].items():  # the forward pass has moved batch norm's statistics already
                value.fill_(float(name.endswith("var"))) if "running" in name else None
        step(self, *arguments)
        states.append({name: value.clone() for name, value in networks[-1].state_dict().items()})

    monkeypatch.setattr(train_seg, "pretrained_seg", building)
    monkeypatch.setattr(torch.optim.SGD, "step", stepping)
    assert rca("train-seg", "--run", run, *assign("seg.ema=0.3")).code == 0
    assert len(states) == 1 + 3 * 4
    assert all(torch.equal(value, states[-1][name]) for name, value in final(plain)["model"].items())  # training itself is the same
    mean = {name: value.double() for name, value in states[0].items()}
    for number, state in enumerate(states[1:], start=1):
        decay = min(0.3, (1 + number) / (10 + number))
        mean = {name: decay * value + (1 - decay) * state[name] for name, value in mean.items()}
    for name, value in final(run)["model"].items():
        if not name.endswith("tracked"):
            torch.testing.assert_close(value.double(), mean[name], rtol=1e-5, atol=1e-6, msg=name)


def test_best_needs_photos_to_choose_by(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="train-seg")
    refused = rca("train-seg", "--run", run, *assign("seg.validate_every=1", "seg.keep=best"))
    assert (refused.code, refused.err.splitlines()[-2]) == (2, "error: seg.keep: best, but no tune photo has a mask to choose by")
    told = rca("train-seg", "--run", run, *assign("seg.keep=last"))
    assert told.code == 0
    assert "seg.validate_every has nothing to score" in told.err


def test_true_masks_need_no_pseudo_labels(rca: Rca, here: TinyRun) -> None:
    for step in ("make-pseudo", "train-cls"):
        shutil.rmtree(here.path / step)
    root = assign(f"data.root={here.data}", "seg.labels=truth")
    done = rca("run", "--run", here.path, *root)
    assert done.code == 0, done.err
    assert {step for step in ("train-cls", "make-pseudo", "train-seg", "eval") if (here.path / step).exists()} == {"train-seg", "eval"}
    assert list(json.loads((here.path / "eval" / "metrics.json").read_text())) == ["seg"]
    assert rca("run", "--run", here.path).err == "everything is up to date\n"
    status = json.loads(rca("status", "--run", here.path, "--json").out)
    assert status["next"] is None
    assert {s["step"]: s["reasons"] for s in status["steps"]}["train-cls"] == ["not needed: the network learns true masks"]
    first = final(here.path)["model"]

    for mask in masks_of(here.data, ["val"]):
        garbage(mask)
    assert rca("train-seg", "--run", here.path, "--force").code == 0
    assert all(torch.equal(value, final(here.path)["model"][name]) for name, value in first.items())
    for mask in masks_of(here.data, ["train"]):
        noise(mask)
    assert rca("train-seg", "--run", here.path, "--force").code == 0
    assert not all(torch.equal(value, final(here.path)["model"][name]) for name, value in first.items())


def test_photos_without_masks_teach_no_truth(rca: Rca, here: TinyRun) -> None:
    manifest = here.path / "prepare" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]

    def without(count: int) -> Result:
        """Run on a manifest in which that many training photos have no mask, recorded as if prepare had written it."""
        train = [line for line in lines if line["split"] == "train"]
        for line in train[:count]:
            line.pop("mask", None)
            line.pop("mask_sha256", None)
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        stage = here.path / "prepare" / "stage.json"
        document = json.loads(stage.read_text())
        document["inventory"]["sizes"]["manifest.jsonl"] = manifest.stat().st_size
        stage.write_text(json.dumps(document))
        return rca("train-seg", "--run", here.path, "--force", *assign("seg.labels=truth", f"data.root={here.data}"))

    some = without(5)
    assert some.code == 0
    assert "5 of 16 training photos have no mask and are left out" in some.err
    assert "train-seg: tiny, 11 photos" in some.err
    assert without(16).code == 3
    assert "error: seg.labels: truth, but none of 16 training photos has a mask" in without(16).err


def blank(mask: Path, value: int) -> None:
    """Give all pixels of a mask one value."""
    with Image.open(mask) as image:
        size, palette = image.size, image.getpalette()
    changed = Image.fromarray(np.full(size[::-1], value, np.uint8))
    assert palette is not None
    changed.putpalette(palette)
    changed.save(mask)


def fill_labels(run: Path, value: int, *, but: int = 0) -> None:
    """Give every pseudo label (`but` some of the first) one value, in files of the size that was recorded."""
    stage = run / "make-pseudo" / "labels" / "stage.json"
    document = json.loads(stage.read_text())
    for path in sorted((run / "make-pseudo" / "labels").glob("*.png"))[but:]:
        blank(path, value)
        document["inventory"]["sizes"][path.name] = path.stat().st_size
    stage.write_text(json.dumps(document))


def test_labels_that_teach_nothing(rca: Rca, here: TinyRun) -> None:
    root = assign(f"data.root={here.data}")
    fill_labels(here.path, 255)
    refused = rca("train-seg", "--run", here.path, *root)
    assert refused.code == 3
    assert "error: the labels of all 16 training photos are ignore (255): there is nothing to learn" in refused.err
    fill_labels(here.path, 0)
    told = rca("train-seg", "--run", here.path, *root)
    assert told.code == 0
    assert "warning: train-seg: the labels of all 16 training photos are background" in told.err
    assert "predicts as good as nothing" not in told.err  # it is what it was taught
    fill_labels(here.path, 2)
    assert rca("train-seg", "--run", here.path, *root, "--force").code == 0  # one class, and no background


def test_a_network_that_predicts_background_only(rca: Rca, here: TinyRun) -> None:
    fill_labels(here.path, 0, but=1)
    told = rca("train-seg", "--run", here.path, *assign(f"data.root={here.data}"))
    predicted = [line["foreground"] for line in log_lines(here.path)]
    assert predicted[0] > 0.1 > predicted[-1] == 0
    warnings = [line for line in told.err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "after 3 of 3 epochs the network predicts as good as nothing but background: try --set seg.loss=balanced" in warnings[0]


def test_a_loss_that_is_not_finite_names_the_photos(rca: Rca, here: TinyRun) -> None:
    failed = rca("train-seg", "--run", here.path, *assign(f"data.root={here.data}", "seg.lr=1e9", "seg.head_lr=1e9"))
    assert failed.code == 5
    assert "the loss is not finite at step" in failed.err
    named = failed.err.split("first with the photos ")[1].split("\n")[0].split(", ")
    assert len(named) == 4
    assert all((here.data / name).is_file() and "train_" in name for name in named)


def test_confidence_weighs_by_the_cams(rca: Rca, plain: Path, here: TinyRun) -> None:
    settings = assign(f"data.root={here.data}", "seg.noise=confidence")
    assert rca("train-seg", "--run", here.path, *settings).code == 0
    assert not same_weights(here.path, plain)
    cam = next((here.path / "make-pseudo" / "cams").glob("train_*.npz"))
    cam.write_bytes(cam.read_bytes()[:-9])
    assert rca("train-seg", "--run", here.path, "--force").code == 4  # an input now


def test_what_train_seg_is_made_from() -> None:
    def config(**seg: Any) -> Config:
        made = Config().model_dump()
        made["seg"] |= seg
        return Config.model_validate(made)

    def step(**seg: Any) -> tuple[tuple[str, ...], bool]:
        found = in_force(config(**seg))["train-seg"]
        return found.inputs, "pseudo.bg_threshold" in settings_used(found, config(**seg))

    assert step() == (("make-pseudo/labels", "prepare"), False)
    assert step(labels="truth") == (("prepare",), False)
    assert step(noise="confidence") == (("make-pseudo/cams", "make-pseudo/labels", "prepare"), True)
    words = ("prepare", "train-cls", "make-pseudo", "make-pseudo/cams", "train-seg", "eval")
    assert [is_needed(word, config()) for word in words] == [True] * 6
    assert [is_needed(word, config(labels="truth")) for word in words] == [True, False, False, False, True, True]


class Fixed(nn.Module):
    """A network whose logits are given."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]

    def outputs(self, images: Tensor) -> list[Tensor]:
        return [self(images), self(images)]


def settings(**changes: Any) -> Seg:
    return Seg.model_validate({**Seg().model_dump(), **changes})


def test_a_step_sums_the_losses_of_its_outputs_and_starts_late() -> None:
    logits = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    net = Fixed(logits)
    label = torch.randint(4, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    batch = torch.zeros(2, 3, 6, 6), label, torch.tensor([5, 3])
    for changes, options in (
        ({}, {}), ({"loss": "balanced"}, {"balanced": True}), ({"noise": "gce", "gce_power": 0.5, "noise_start": 2}, {"power": 0.5}),
    ):  # fmt: skip
        loss_fn = StepLoss(net, settings(**changes), None, window=3)
        for epoch in (1, 2):
            loss_fn.begin(epoch)
            expected = seg_loss(logits, label, **(options if "power" not in options or epoch == 2 else {}))
            torch.testing.assert_close(loss_fn(batch)["loss"].detach(), 2 * expected)
    weight = torch.rand(2, 6, 6)
    found = StepLoss(net, settings(noise="confidence"), None, window=3)((*batch, weight))["loss"].detach()
    torch.testing.assert_close(found, 2 * seg_loss(logits, label, weight=weight))


def test_a_step_with_a_teacher() -> None:
    generator = torch.Generator().manual_seed(0)
    net, sure = Fixed(torch.randn(2, 4, 6, 6, generator=generator)), torch.zeros(2, 4, 6, 6)
    sure[:, 2] = 9
    label = torch.ones(2, 6, 6, dtype=torch.long)
    allowed = torch.zeros(9, 4, dtype=torch.bool)
    allowed[5, [0, 2]] = allowed[3, [0, 1]] = True
    average = WeightAverage(Fixed(sure), 0.5)
    loss_fn = StepLoss(net, settings(noise="teacher", ema=0.5, noise_start=1), Teacher(average, allowed), window=3)
    found = []
    for epoch in (0, 1):
        loss_fn.begin(epoch)
        found.append(loss_fn((torch.zeros(2, 3, 6, 6), label, torch.tensor([5, 3]))))
    taught = torch.stack([torch.full((6, 6), 2), torch.ones(6, 6)]).long()  # photo 3 has no tag 2
    assert "corrected" not in found[0]
    assert float(found[1]["corrected"]) == 0.5
    torch.testing.assert_close(found[0]["loss"].detach(), 2 * seg_loss(net.logits.detach(), label))
    torch.testing.assert_close(found[1]["loss"].detach(), 2 * seg_loss(net.logits.detach(), taught))
    assert average.model.logits.grad is None


@pytest.mark.parametrize(("steps", "finished", "foreground", "expected"), [
    (49, False, 0, False), (50, False, 0, True), (3, True, 0, True), (50, True, 1, False),
])  # fmt: skip
def test_when_background_only_is_news(steps: int, finished: bool, foreground: int, expected: bool) -> None:
    logits = torch.zeros(1, 3, 10, 10)
    logits[:, 0] = 1
    logits[0, 1, 0, 0] = 2 * foreground
    label = torch.zeros(1, 10, 10, dtype=torch.long)
    label[0, :3] = 1
    loss_fn = StepLoss(Fixed(logits), settings(), None, window=3)
    loss_fn.begin(0)
    for _ in range(steps):
        found = loss_fn((torch.zeros(1, 3, 10, 10), label, torch.tensor([0])))
    assert float(found["foreground"]) == pytest.approx(0.01 * foreground)
    assert loss_fn.is_background_only(finished=finished) == expected
    loss_fn.begin(1)
    loss_fn((torch.zeros(1, 3, 10, 10), torch.zeros_like(label), torch.tensor([0])))
    assert not loss_fn.is_background_only(finished=True)  # labels of background only


def test_bad_photos_are_those_of_the_first_bad_batch() -> None:
    loss_fn = StepLoss(Fixed(torch.zeros(2, 3, 4, 4)), settings(), None, window=4)
    label = torch.zeros(2, 4, 4, dtype=torch.long)
    for number in range(4):
        if number == 2:
            loss_fn.model.logits.data[0, 0, 0, 0] = float("nan")
        loss_fn((torch.zeros(2, 3, 4, 4), label, torch.tensor([2 * number, 2 * number + 1])))
    assert loss_fn.bad_photos() == [4, 5]
    loss_fn.begin(1)
    assert loss_fn.bad_photos() == []


def test_the_first_of_equal_scores_is_the_best() -> None:
    best, again = Best(), Best()
    assert [best.update(score, epoch) for epoch, score in enumerate((0.2, 0.1, 0.2, 0.3, 0.3))] == [True, False, False, True, False]
    again.load_state_dict(best.state_dict())
    assert (float(again.score), int(again.epoch)) == (0.3, 3)
    assert Best().update(0.0, 1)
