"""docs/invariants.md: every number once, and every test it names is there (read from the source, nothing is imported)."""

import ast
import re
from functools import cache

import pytest
from conftest import REPOSITORY

ROW = re.compile(r"^\| (\d+) \|(.+)\|(.*)\| (.+) \|$")
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> dict[int, str]:
    """The tests' column by number; fails where a number is there twice."""
    lines = (REPOSITORY / "docs" / "invariants.md").read_text(encoding="utf-8").splitlines()
    found = [match for match in map(ROW.match, lines) if match]
    numbers = [int(match[1]) for match in found]
    assert numbers == list(range(1, 66))
    return {number: match[4] for number, match in zip(numbers, found, strict=True)}


@cache
def functions(name: str) -> set[str]:
    tree = ast.parse((REPOSITORY / "tests" / name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("number", range(1, 66))
def test_an_invariant_names_tests_that_exist(number: int) -> None:
    column = rows()[number]
    named = NAMED.findall(column)
    assert named or column == "not built"
    assert NAMED.sub("", column).strip(" ,") == ("" if named else "not built")  # nothing that is not read here
    assert [f"{file}::{test}" for file, test in named if test not in functions(file)] == []


def test_what_tests_say_of_an_invariant_is_about_one() -> None:
    said = {
        path.name: set(map(int, re.findall(r"[Ii]nvariants? (\d+)", path.read_text(encoding="utf-8"))))
        for folder in ("tests", "rcatool") for path in (REPOSITORY / folder).rglob("*.py")
    }  # fmt: skip
    assert {name: numbers for name, numbers in said.items() if numbers - set(range(1, 66))} == {}
