"""The packaged presets: readable, found by name, and stating only what differs from the defaults."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Result
from small_voc import make_voc

from rcatool import config_io
from rcatool.config import Config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PRESETS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def test_every_preset_is_found_by_name() -> None:
    assert {"shapes", "voc-part-mobilenet", "voc12-vgg16", "voc12-resnet50", "voc12-resnet101"} <= set(PRESETS)
    assert sorted(config_io.list_presets()) == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_preset_states_only_what_differs(name: str) -> None:
    path = config_io.find_preset(name)
    config = config_io.read_config(path)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    stated = [f"{section}.{setting}" for section, settings in tree.items() for setting in settings]
    same = [dotted for dotted in stated if config_io.get(config, dotted) == config_io.get(Config(), dotted)]
    assert stated
    assert same == []


@pytest.mark.parametrize("name", PRESETS)
def test_preset_trains_batch_norm_where_nothing_is_pretrained(name: str) -> None:
    # Frozen statistics that nobody has ever estimated would leave the network as good as random.
    config = config_io.read_config(config_io.find_preset(name))
    for section in (config.cls, config.seg):
        assert section.weights != "none" or not section.freeze_bn


PAPER = {  # section 1.10 of the method's description: what the paper says, and the released code's numbers where it says none
    "cls.method": "rca", "cls.head": "1x1", "cls.p_weight": 0.4, "cls.feature_scale": 1.0,
    "memory.region_map": "raw", "memory.region_threshold": "mean", "memory.confidence": 0.7, "memory.contrast_weight": 0.01,
    "memory.projection": 0, "memory.temperature": 0.07, "memory.mixup_beta": 8.0, "memory.prototypes": 10, "memory.attention": "dot",
    "memory.attention_temperature": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-paper")])
def test_paper_presets_are_the_paper_whatever_the_defaults_become(name: str) -> None:
    config = config_io.read_config(config_io.find_preset(name))
    assert {dotted: config_io.get(config, dotted) for dotted in PAPER} == PAPER
    voc = name.startswith("voc12")
    assert config.memory.design == ("instance-ema" if voc else "fifo")  # a slot for each of COCO's photos and tags is too much
    assert config.memory.momentum == 0.99 or not voc
    if name == "voc12-vgg16-paper":
        schedule = [getattr(config.cls, setting) for setting in ("epochs", "batch_size", "lr", "head_lr", "schedule", "step_epochs")]
        assert schedule == [30, 8, 1e-3, 1e-2, "step", (5, 10)]


def test_each_network_has_its_presets() -> None:
    networks = {f"{data}-{net}" for data in ("voc12", "coco14") for net in ("vgg16", "resnet50", "resnet101")}
    expected = networks | {f"{name}-paper" for name in networks}
    assert expected | {"voc12-vgg16-official"} <= set(PRESETS)
    for name in expected:
        config = config_io.read_config(config_io.find_preset(name))
        assert config.cls.backbone == config.seg.backbone == name.split("-")[1]


def test_a_setting_that_fits_the_preset_only(rca: Callable[..., Result], tmp_path: Path) -> None:
    # The defaults have two backbones, so that with them train-cls could not be what seg.weights says.
    base = make_voc(tmp_path / "voc")
    preset = tmp_path / "preset.yaml"
    preset.write_text("cls: {backbone: tiny, weights: none}\nseg: {backbone: tiny, weights: none}\n")
    words = ["--root", base, "--run", tmp_path / "run", "--set", "seg.weights=train-cls", "--set", "runtime.workers=0"]
    assert rca("prepare", "voc", "--config", preset, *words).code == 0
    assert rca("prepare", "voc", *words, "--force").code == 0  # the run keeps its backbones
    assert rca("prepare", "voc", "--root", base, "--run", tmp_path / "other", "--set", "seg.weights=train-cls").code == 2
