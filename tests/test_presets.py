"""The packaged presets: readable, found by name, and stating only what differs from the defaults."""

from pathlib import Path

import pytest
import yaml

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
