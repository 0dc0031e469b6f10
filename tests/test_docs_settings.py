"""docs/settings.md is what the configuration says; `rca settings` says the same."""

import json
from pathlib import Path

import pytest

from rcatool import config_io, settings_table, yaml_text
from rcatool.config import Config
from rcatool.steps import STEPS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"


def rows() -> dict[str, list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [line.replace("\\|", "¦").strip("|").split(" | ") for line in lines]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in cells}


def test_the_page_is_the_one_that_is_made() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_table.markdown(), "make docs writes the page anew"


def test_every_setting_has_a_row_with_its_default() -> None:
    found = rows()
    assert list(found) == list(config_io.settings())
    for name, (_, default, meaning) in found.items():
        value = config_io.get(Config(), name)
        assert default == ("empty" if value == "" else f"`{yaml_text.write_value(value)}`"), name
        assert meaning, name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cls.epochs", "whole number, at least 1"), ("cls.lr", "number, above 0"), ("cls.flip", "`true`, `false`"),
        ("cls.method", "`rca`, `cam`, `official`"), ("cam.source_first", "whole number, -1 to 1"), ("data.root", "text"),
        ("seg.momentum", "number, at least 0, below 1"), ("seg.head_width", "whole number, 16 to 1024, multiple of 16"),
        ("cam.scales", "list of 1 to 16: number, above 0, at most 8"), ("affinity.thresholds", "2 of: number, 0 to 1"),
        ("cls.step_epochs", "list of any length: whole number, at least 1"), ("pseudo.bg_threshold", "number, 0 to 1"),
    ],
)  # fmt: skip
def test_values_in_words(name: str, values: str) -> None:
    assert rows()[name][0] == values


def test_the_steps_that_a_change_makes_stale() -> None:
    # By hand: the step whose result depends on the setting and on no other one that does.
    steps = {setting.name: setting.steps for setting in settings_table.all_settings()}
    assert steps["data.train_list"] == ("prepare",)
    assert steps["memory.size"] == ("train-cls",)
    assert steps["pseudo.crf"] == ("make-pseudo/labels",)
    assert steps["refine.method"] == ("make-pseudo/refined",)
    assert steps["second.enabled"] == ("make-pseudo/round-2",)
    assert steps["eval.flip"] == ("eval",)
    assert steps["runtime.device"] == ()
    assert steps["seed"] == ("train-cls", "make-pseudo/affinity", "train-seg")
    assert all(step in STEPS for found in steps.values() for step in found)


def test_settings_in_the_terminal(rca) -> None:  # type: ignore[no-untyped-def]
    shown = rca("settings", "pseudo")
    assert shown.code == 0
    assert "pseudo.bg_threshold" in shown.out
    assert "seg.epochs" not in shown.out
    one = json.loads(rca("settings", "cls.lr", "--json").out)
    assert one == [{"name": "cls.lr", "values": "number, above 0", "default": "0.01", "steps": ["train-cls"],
                    "meaning": "learning rate of the backbone at the start"}]  # fmt: skip
    assert rca("settings", "--markdown").out == PAGE.read_text(encoding="utf-8")
    assert len(json.loads(rca("settings", "--json").out)) == len(config_io.settings())


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (("settings", "cls.lrr"), "unknown setting: cls.lrr", "did you mean cls.lr?"),
        (("settings", "psuedo"), "unknown setting: psuedo", "did you mean the section pseudo?"),
        (("settings", "cls", "--markdown"), "--markdown is the whole page", "leave out NAME and --json"),
    ],
)
def test_settings_that_do_not_exist(rca, line: tuple[str, ...], message: str, hint: str) -> None:  # type: ignore[no-untyped-def]
    done = rca(*line)
    assert done.code == 2
    assert message in done.err
    assert hint in done.err
