"""Settings: YAML and `--set` to Config and back, and what is said about mistakes."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rcatool import config_io
from rcatool.config import Config
from rcatool.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NUMBER = st.one_of(st.floats(1e-12, 1e6), st.floats(0, 1))
WHOLE = st.one_of(st.integers(0, 16), st.integers(32, 2048), st.integers(0, 10**9))


def candidates(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a declared type; not all are within a setting's range."""
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return WHOLE
    if annotation is float:
        return NUMBER
    if annotation is str:
        return TEXT
    if getattr(annotation, "__origin__", None) is tuple:
        inner = NUMBER if "float" in str(annotation) else WHOLE
        return st.one_of(st.lists(inner, min_size=1, max_size=4).map(tuple), st.lists(inner, min_size=2, max_size=2).map(tuple))
    return st.sampled_from(get_args(annotation))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """A Config with many settings changed."""
    config = Config()
    for dotted in draw(st.lists(st.sampled_from(sorted(config_io.settings())), max_size=40, unique=True)):
        value = draw(candidates(config_io.settings()[dotted].annotation))
        head, _, name = dotted.rpartition(".")
        try:
            section = type(getattr(config, head)).model_validate({**dict(getattr(config, head)), name: value}) if head else value
            config = Config.model_validate({**dict(config), head or name: section})
        except ValidationError:
            continue  # out of range
    return config


@pytest.mark.parametrize(
    "text", ["", " ", "\x85", "a\n\nb", "\u2028", "\ufeff", "'\"", "...", "---", "# a", "a # b", "{", "*a", "~", "é: ü", "\x00\x1b"]
)
def test_text_that_yaml_could_misread(tmp_path: Path, text: str) -> None:
    config = Config.model_validate({"data": {**dict(Config().data), "root": text, "tags": text}})
    path = tmp_path / "config.yaml"
    path.write_text(config_io.dump(config), encoding="utf-8")
    assert config_io.read_config(path) == config
    assert yaml.safe_load(path.read_bytes())["data"]["root"] == text


@settings(deadline=None)  # a loaded machine is no failure
@given(config=configs())
def test_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(config_io.dump(config), encoding="utf-8")
    assert config_io.read_config(path) == config


@settings(deadline=None)  # a loaded machine is no failure
@given(config=configs())
def test_other_yaml_readers_read_the_same_values(config: Config) -> None:
    expected = config.model_dump(mode="json")
    assert yaml.safe_load(config_io.dump(config)) == expected


def test_every_setting_is_written_with_its_meaning() -> None:
    text = config_io.dump(Config())
    for dotted, field in config_io.settings().items():
        assert field.description
        assert f"{dotted.rpartition('.')[2]}: " in text
        assert f"# {field.description}\n" in text


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("cls.lr=1e-3", 0.001),
        ("cls.lr=3", 3.0),
        ("cls.epochs=7", 7),
        ("cls.flip=false", False),
        ("cls.flip=True", True),
        ("cls.output_stride=8", 8),
        ("pseudo.crf=none", "none"),
        ("cam.scales=[0.5, 1]", (0.5, 1.0)),
        ("cls.resize_long=[10,20]", (10, 20)),
        ("seed=5", 5),
        ("data.train_list=2007", "2007"),
        ("data.train_list=2007_000032", "2007_000032"),
        ("data.train_list=on", "on"),
        ("data.train_list= [a, b: #c", " [a, b: #c"),
        ("data.root=/a=b/c", "/a=b/c"),
        ("data.tags=", ""),
    ],
)
def test_set(assignment: str, value: object) -> None:
    config = config_io.apply_settings(Config(), [assignment])
    got = config_io.get(config, assignment.partition("=")[0])
    assert got == value
    assert type(got) is type(value)


def test_the_last_of_a_name_wins_and_others_stay() -> None:
    config = config_io.apply_settings(Config(), ["cls.lr=1", "cls.epochs=3", "cls.lr=2"])
    assert (config.cls.lr, config.cls.epochs, config.cls.head_lr) == (2.0, 3, Config().cls.head_lr)
    assert config.seg == Config().seg


MISTAKES = [
    ("cls.lrr=1", "unknown setting: cls.lrr", "did you mean cls.lr?"),
    ("CLS.LR=1", "unknown setting: CLS.LR", None),
    ("epochs=3", "unknown setting: epochs", "did you mean cls.epochs or affinity.epochs or seg.epochs?"),
    ("pseudo.bg_treshold=1", "unknown setting: pseudo.bg_treshold", "did you mean pseudo.bg_threshold?"),
    ("clss=1", "unknown setting: clss", "did you mean the section cls?"),
    ("sed=1", "unknown setting: sed", "did you mean seed?"),
    ("qqqq=1", "unknown setting: qqqq", "the sections are data, cls, memory"),
    ("cls=1", "cls: expected settings, got 1", None),
    ("cls.epochs=1.5", "cls.epochs: expected a whole number, got 1.5", None),
    ("cls.epochs=true", "cls.epochs: expected a whole number, got true", None),
    ("cls.epochs=0", "cls.epochs: expected at least 1, got 0", None),
    ("cls.epochs=", "cls.epochs: expected a whole number, got ''", None),
    ("cls.epochs=1e3", "cls.epochs: expected a whole number, got 1e3", None),
    ("cls.epochs=" + "9" * 5000, "cls.epochs: expected a whole number, got '999", None),
    ("cls.lr=fast", "cls.lr: expected a number, got fast", None),
    ("cls.lr=nan", "cls.lr: expected a finite number, got nan", None),
    ("cls.lr=inf", "cls.lr: expected a finite number, got inf", None),
    ("cls.lr=1e999", "cls.lr: expected a finite number, got 1e999", None),
    ("cls.lr=0", "cls.lr: expected more than 0, got 0", None),
    ("cls.lr=[1]", "cls.lr: expected a number, got [1]", None),
    ("cls.lr={a: 1}", "--set cls.lr: expected a value, got a mapping", None),
    ("cls.flip=yes", "cls.flip: expected true or false, got yes", None),
    ("cls.flip=1", "cls.flip: expected true or false, got 1", None),
    ("pseudo.bg_threshold=1.1", "pseudo.bg_threshold: expected at most 1, got 1.1", None),
    ("pseudo.crf=cos", "pseudo.crf: 'cos' is not one of none, seed, irn", None),
    ("cls.output_stride=12", "cls.output_stride: '12' is not one of 8, 16", None),
    ("cam.scales=1", "cam.scales: expected a list such as [1, 2], got 1", None),
    ("cam.scales=[]", "cam.scales: expected at least 1 values, got 0", None),
    ("cam.scales=[1, x]", "cam.scales: expected a number, got x", None),
    ("cam.scales=[1, nan]", "cam.scales: expected a finite number", None),
    ("cam.scales=[1, [2]]", "cam.scales: expected a number, got [2]", None),
    ("cam.scales=[1", "not valid YAML", None),
    ("cam.scales=[&a 1, *a]", "aliases (*name) are not allowed", None),
    ("cls.lr=!!python/object/apply:os.system [ls]", "is not allowed", None),
    ("cls.resize_long=[5]", "cls.resize_long: expected 2 values, got 1", None),
    ("cls.resize_long=[9, 5]", "cls.resize_long: 9 > 5, expected [smallest, largest]", None),
    ("data.root=\udcff", "data.root: expected text", None),
    ("cls.lr", "--set cls.lr: expected NAME=VALUE", "cls.epochs=5"),
    ("=1", "--set =1: expected NAME=VALUE", None),
]


@pytest.mark.parametrize(("assignment", "message", "hint"), MISTAKES)
def test_mistakes_in_set(assignment: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        config_io.apply_settings(Config(), [assignment])
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200
    if hint is not None:
        assert hint in str(caught.value.hint)


@pytest.mark.parametrize("value", ["1", "0.5", "true", "x", "[1, 2]", "nan", ""])
@pytest.mark.parametrize("dotted", sorted(config_io.settings()))
def test_any_value_is_taken_or_refused_by_name(dotted: str, value: str) -> None:
    message = ""
    try:
        config = config_io.apply_settings(Config(), [f"{dotted}={value}"])
    except ConfigError as error:
        config, message = Config(), error.message
    got = config_io.get(config, dotted)
    assert not message or message.startswith(f"{dotted}: ")
    assert not isinstance(got, float) or math.isfinite(got)
    assert isinstance(got, bool) == (config_io.settings()[dotted].annotation is bool)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cls: {lr: 1", "c.yaml:1: not valid YAML"),
        ("cls:\n\tlr: 1\n", "c.yaml:2: not valid YAML"),
        ("cls:\n  lr: 1\n  epochs: 2\n  lr: 3\n", "c.yaml:4: cls.lr is given twice"),
        ("cls:\n  lr: 1\nseed: 1\ncls:\n  epochs: 3\n", "c.yaml:4: cls is given twice"),
        ("seed: 1\ncls:\n  lrr: 1\n", "unknown setting: cls.lrr (", ),
        ("cls:\n  epochs: 1.5\n", "c.yaml:2)"),
        ("cls:\n  epochs: 0\n", "c.yaml:2)"),
        ("- 1\n", "c.yaml:1: expected NAME: VALUE lines"),
        ("hello", "c.yaml:1: expected NAME: VALUE lines"),
        ("cls: 3\n", "cls: expected settings, got 3"),
        ("cls:\n  lr:\n    a: 1\n", "unknown setting: cls.lr.a"),
        ("[a]: 1\n", "c.yaml:1: a setting's name must be text"),
        ("seed: 1\n---\nseed: 2\n", "c.yaml:2: not valid YAML"),
        ("seed: !!python/object/apply:os.system [ls]\n", "is not allowed"),
        ("seed: !x 1\n", "the tag !x is not allowed"),
        ("<<: {seed: 1}\n", "unknown setting: <<.seed"),
        ("a: &a [1]\nb: [*a, *a]\n", "c.yaml:2: not valid YAML (aliases (*name) are not allowed)"),
        ("[" * 100_000, "nested too deeply"),
        ("seed: 1\x00", "not valid YAML"),
        ("#" * (1 << 20) + "\n", "larger than 1 MiB"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config_io.read_config(path)
    assert message in caught.value.message
    assert "c.yaml" in caught.value.message
    assert "\n" not in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(ConfigError, match=r"c\.yaml: not UTF-8 text \(byte 6\)"):
        config_io.read_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read"):
        config_io.read_config(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config_io.read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "cls:\n", "\ufeffcls:\n"])
def test_files_that_say_nothing_are_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    assert config_io.read_config(tmp_path / "c.yaml") == Config()


def test_values_in_files_have_the_declared_type(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data:\n  train_list: 2007_000032\n  val_list: on\ncls:\n  lr: 1e-3\ncam.scales: [1, 2]\n")
    config = config_io.read_config(path)
    assert (config.data.train_list, config.data.val_list, config.cls.lr, config.cam.scales) == ("2007_000032", "on", 0.001, (1.0, 2.0))


def test_presets_are_found_by_name_or_path(tmp_path: Path) -> None:
    assert config_io.find_preset("shapes").name == "shapes.yaml"
    assert config_io.find_preset("a/b") == Path("a/b")
    assert config_io.find_preset("x.yaml") == Path("x.yaml")
    with pytest.raises(ConfigError, match=r"no preset 'shape'; there are: .*shapes, ") as caught:
        config_io.find_preset("shape")
    assert caught.value.hint == "did you mean shapes?"
