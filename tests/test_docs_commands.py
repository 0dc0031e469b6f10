"""The commands of the README and of docs/, read by the command line itself; and the settings that they name."""

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.main import get_command

from rcatool import config_io
from rcatool.commands import app
from rcatool.config import Config
from rcatool.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
UsageError: Any = typer.BadParameter.__base__
SECTIONS = "|".join(dict.fromkeys(name.partition(".")[0] for name in config_io.settings() if "." in name))
SETTING = re.compile(rf"({SECTIONS})\.([a-z0-9_]+\*?)(?:(?:=|: )(.+))?")
NO_SETTINGS = re.compile(r".*\.(py|yaml)")  # files
# Reading these options does what they say; the first writes to the shell's settings of whoever runs the tests.
DONE_AT_ONCE = ("--install-completion", "--show-completion", "--help")
PLACEHOLDER = re.compile(r"\.\.\.|[A-Z][A-Z0-9_]*")


class Line(NamedTuple):
    """A command line of a page."""

    page: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number}: {self.text}"


def blocks(page: Path) -> Iterator[list[tuple[int, str]]]:
    """The code blocks of a page (indented, or between fences), as numbered lines."""
    block: list[tuple[int, str]] = []
    fenced = False
    for number, line in enumerate([*page.read_text(encoding="utf-8").splitlines(), "end"], start=1):
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            block.append((number, line.removeprefix("    ")))
        elif line.strip() and block:
            yield block
            block = []


def lines_of(page: Path) -> Iterator[Line]:
    """The command lines of a page's code blocks, those that go over several lines joined, without comments, one by one."""
    for block in blocks(page):
        waiting = ""
        for number, text in block:
            waiting += text.removesuffix("\\")
            if text.endswith("\\"):
                continue
            for part in re.split(r"\s+#\s.*$|&&", waiting):
                if part and part.strip():
                    yield Line(page.relative_to(REPOSITORY).as_posix(), number, part.strip())
            waiting = ""


def spans(page: Path) -> Iterator[Line]:
    """What stands in backticks outside of code blocks."""
    in_block = {number for block in blocks(page) for number, _ in block}
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if number not in in_block:
            for span in re.findall(r"`([^`]+)`", line):
                yield Line(page.relative_to(REPOSITORY).as_posix(), number, span)


LINES = [line for page in PAGES for line in lines_of(page)]
SPANS = [line for page in PAGES for line in spans(page)]


def command_of(text: str) -> list[str] | None:
    """The words after `rca` of a line that calls it; None for another program's line."""
    if not re.match(r"([A-Z_]+=\S+ )*(rca( |$)|\S.* -m rcatool )", text):
        return None
    words = shlex.split(text)
    while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    return words[1:] if words[0] == "rca" else words[words.index("rcatool") + 1 :]


def plain(words: Sequence[str]) -> list[str]:
    """Words without the marks of a synopsis: [optional] parts are there, of a|b it is the first, dots stand for nothing."""
    found = []
    for word in words:
        if word.startswith("[") or word.count("]") > word.count("["):  # and not `cam.scales=[0.5,1.0]`
            word = word.removeprefix("[").removesuffix("]")
        if word and word != "...":
            found.append(word if "=" in word else word.split("|")[0])
    return found


def parse(words: Sequence[str], *, complete: bool = True) -> dict[str, Any]:
    """What the command line makes of `words`: the values by name. Raises UsageError; not for what lacks, unless `complete`."""
    command: Any = get_command(app)
    context, values = None, {}
    rest = [word for word in words if word not in DONE_AT_ONCE]
    if len(rest) < len(words):
        complete = False
    if not rest or words[0] in DONE_AT_ONCE:
        return {}
    while True:
        try:
            context = command.make_context(command.name or "rca", rest, parent=context)
        except UsageError as error:
            if complete or not error.format_message().lower().startswith("missing"):
                raise
            context = command.make_context(command.name or "rca", rest, parent=context, resilient_parsing=True)
        values |= context.params
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not hasattr(command, "commands") or not rest:
            return values
        _, command, rest = command.resolve_command(context, rest)


def check_settings(assignments: Sequence[str], base: Config) -> None:
    """Raise ConfigError unless all of NAME=VALUE can be; of a placeholder for a value only the name is looked at."""
    real = []
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if PLACEHOLDER.fullmatch(value):
            assert name in config_io.settings(), f"no setting {name}"
        else:
            real.append(assignment)
    config_io.apply_settings(base, real)


CALLS = [(line, command) for line in LINES if (command := command_of(line.text)) is not None]


def test_the_reader_finds_commands() -> None:
    # The tests below would pass on a reader that finds none.
    assert len(CALLS) > 80
    by_page = {line.page for line, _ in CALLS}
    assert {"README.md", "docs/own-photos.md", "docs/commands.md", "docs/data.md", "docs/troubleshooting.md"} <= by_page
    joined = [line.text for line, _ in CALLS if line.page == "docs/results.md" and "voc-part-mobilenet" in line.text]
    assert any("seg.freeze_early=false" in text for text in joined)  # a command of three lines


@pytest.mark.parametrize("call", CALLS, ids=[str(line) for line, _ in CALLS])
def test_every_command_in_a_code_block_is_one(call: tuple[Line, list[str]]) -> None:
    line, command = call
    values = parse(plain(command), complete="..." not in command)
    preset = values.get("config")
    known = preset is not None and not PLACEHOLDER.fullmatch(preset.removesuffix(".yaml")) and Path(preset).suffix != ".yaml"
    base = config_io.read_config(config_io.find_preset(preset)) if known else Config()
    check_settings(values.get("set_") or (), base)
    for option in ("val_fraction", "tune_fraction"):
        assert values.get(option) is None or 0 <= values[option] <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rca train-clss", "No such command"),
        ("rca train-cls --sett cls.epochs=1", "No such option"),
        ("rca prepare folder --images photos", "Missing option"),
        ("rca export coco --what labels --out x.json", "Invalid value"),
        ("rca score pred", "Missing argument"),
        ("rca predict a.jpg --out masks --tile big", "Invalid value"),
        ("rca status now", "unexpected extra argument"),
    ],
)
def test_a_wrong_command_would_be_seen(text: str, message: str) -> None:
    command = command_of(text)
    assert command is not None
    with pytest.raises(UsageError) as error:
        parse(plain(command))
    assert message in error.value.format_message()


@pytest.mark.parametrize("assignment", ["cls.epoch=3", "cls.epochs=many", "cls.backbone=resnet", "seg.ema=FAST.5"])
def test_a_wrong_setting_would_be_seen(assignment: str) -> None:
    with pytest.raises(ConfigError):
        check_settings([assignment], Config())


def test_commands_in_sentences_exist() -> None:
    """`rca train-cls`, `rca predict IMAGES...`: the words and options are there; what has to be given may lack."""
    seen = 0
    for line in SPANS:
        if not re.match(r"rca [a-z-]", line.text):
            continue
        seen += 1
        words = command_of(line.text) or []
        try:
            check_settings(parse(plain(words), complete=False).get("set_") or (), Config())
        except UsageError as error:  # an option may stand there without its value
            if not error.format_message().endswith("requires an argument."):
                pytest.fail(f"{line}: {error.format_message()}")
        except ConfigError as error:
            pytest.fail(f"{line}: {error}")
    assert seen > 60


def test_settings_in_sentences_exist() -> None:
    seen = 0
    for line in SPANS:
        if line.text.startswith("rca "):  # read by the test above
            continue
        for text in re.split(r"\s*(?:,|--set)\s+", line.text.removeprefix("--set ")):
            found = SETTING.fullmatch(text)
            if found is None or NO_SETTINGS.fullmatch(text):
                continue
            seen += 1
            name, value = f"{found[1]}.{found[2]}", found[3]
            if name.endswith("*"):
                assert any(setting.startswith(name[:-1]) for setting in config_io.settings()), str(line)
            elif value is None or PLACEHOLDER.fullmatch(value):
                assert name in config_io.settings(), str(line)
            else:
                check_one(line, name, value)
    assert seen > 150


def check_one(line: Line, name: str, value: str) -> None:
    """Each of `a | b | c` is a value of the setting, by itself or with the others that it needs."""
    for one in re.split(r"\s*(?:\||->)\s*", value):
        needed = {"seg.noise": ["seg.ema=0.999"], "seg.keep": ["seg.validate_every=1"]}.get(name, [])
        needed += ["seg.backbone=resnet50"] if (name, one) == ("seg.weights", "train-cls") else []
        try:
            config_io.apply_settings(Config(), [*needed, f"{name}={one}"])
        except ConfigError as error:
            pytest.fail(f"{line}: {error}")


def test_options_beside_a_command_in_a_table_exist() -> None:
    """`--masks DIR` in a sentence is an option of some command."""
    options = {"--help", "--index-url", "--logdir", "--force-reinstall", "--nproc-per-node", "--max-restarts"}  # the last ones are others'
    for command in walk(get_command(app)):
        options |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for script in [*(REPOSITORY / "benchmarks").glob("*.py"), REPOSITORY / "tests" / "torture.py", REPOSITORY / "tests" / "fuzzing.py"]:
        options |= set(re.findall(r"\"(--[a-z-]+)\"", script.read_text(encoding="utf-8")))
    for line in SPANS:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line.text):
            assert option in options, str(line)


def walk(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from walk(inner)


def test_scripts_targets_and_extras_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for line in itertools.chain(LINES, SPANS):
        for script in re.findall(r"(?:benchmarks|tests)/\w+\.py", line.text):
            assert (REPOSITORY / script).is_file(), str(line)
        target = re.match(r"make ([a-z]+)\b", line.text)
        assert target is None or re.search(rf"^{target[1]}:", makefile, re.MULTILINE), str(line)
        for extra in re.findall(r"(?:rcatool|\.)\[(\w+)\]", line.text):
            assert extra in extras, str(line)


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    table = page[: page.index("\n## ")]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        row = next((row for row in table.splitlines() if row.startswith(f"| `rca {name}")), None)
        assert row is not None, name
        for inner in getattr(command, "commands", {}):
            assert any(f"`{inner}`" in row or f"rca {name} {inner}" in row for row in table.splitlines()), f"{name} {inner}"


def test_every_preset_and_exit_code_is_on_the_page_of_commands() -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    for name in config_io.list_presets():
        assert f"`{name.removesuffix('-paper')}`" in page, name
