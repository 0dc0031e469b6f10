"""The colours of the pages, against the contrast that WCAG 2.1 AA asks for; no browser is needed."""

import re
from pathlib import Path

import pytest

from rcatool.overlay import INK, PAPER
from rcatool.report import page
from rcatool.report.panels import colours
from rcatool.report.strip import SOFT

Colour = tuple[int, int, int]
STYLE = Path(page.__file__).with_name("templates") / "style.css"
TEXT, SHAPE = 4.5, 3.0
# What stands on what.
TEXTS = [
    ("ink", "paper"), ("soft", "paper"), ("accent", "paper"), ("paper", "accent"), ("ink", "raised"), ("accent", "raised"),
    ("ink", "note"), ("soft", "note"), ("accent", "note"),
]  # fmt: skip
SHAPES = [
    ("accent", "paper"), ("second", "paper"), ("third", "paper"), ("bar", "paper"), ("bar", "track"), ("ink", "track"), ("good", "track"),
    ("bad", "track"), ("edge", "paper"), ("soft", "paper"),
]  # fmt: skip


def luminance(colour: Colour) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (channel / 255 for channel in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: Colour, b: Colour) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def scheme(dark: bool) -> dict[str, Colour]:
    """The colours by name: those of :root, and in the dark those that replace them."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    found = re.findall(r"--([\w-]+): (#[0-9a-fA-F]{6})\b", "".join(blocks[: 1 + dark]))
    return {name: (int(code[1:3], 16), int(code[3:5], 16), int(code[5:], 16)) for name, code in found}


def test_the_formula() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.005)  # known: the grey that just fails


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_shapes_have_contrast(dark: bool) -> None:
    found = scheme(dark)
    for pairs, least in ((TEXTS, TEXT), (SHAPES, SHAPE)):
        weak = {pair: round(contrast(found[pair[0]], found[pair[1]]), 2) for pair in pairs}
        assert not {pair: ratio for pair, ratio in weak.items() if ratio < least}, least


def test_both_schemes_have_the_same_names() -> None:
    light, dark = (re.findall(r"--([\w-]+):", block) for block in re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL))
    assert light == dark


def test_the_strip_has_contrast() -> None:
    assert contrast(INK, PAPER) >= TEXT
    assert contrast(SOFT, PAPER) >= TEXT
    table = colours()
    assert len({table[value] for value in range(1, 81)}) == 80  # no two classes of COCO share one
