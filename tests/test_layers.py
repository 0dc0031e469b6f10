"""The architecture, held by reading the source: who imports whom, how long things are, which step owns which setting."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from rcatool import config_io
from rcatool.steps import NOT_FINGERPRINTED, STEPS

PACKAGE = Path(__file__).resolve().parents[1] / "rcatool"
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))

# Section 2 of docs/architecture.md. A trailing * stands for the modules of a folder.
LAYERS = {
    "errors": ["errors"],
    "foundation": [
        "config", "config_cls", "config_data", "config_io", "config_seg", "outside", "yaml_text",
        "files", "pool", "process", "lock", "results", "steps",
        "run", "console", "log_lines",
        "data/__init__", "data/labels", "data/manifest", "data/saliency", "data/tags", "data/npy", "data/npz", "data/pickled", "data/voc",
        "data/folder", "data/shapes", "data/mismatch", "data/colours",
        "data/mat5", "data/sbd", "data/phash", "data/mask_digest", "data/census", "data/photos", "data/photo_files", "data/photo_ids",
        "data/tag_rows", "data/tag_csv", "data/tag_json", "data/tag_folders", "data/json_source", "data/coco_file", "data/coco_masks",
        "data/json_window", "data/coco_json", "data/coco_regions", "data/coco_rule", "data/coco_paint", "data/coco", "photo_inputs",
    ],
    "computation": [
        "models/*", "refine/*", "data/transforms", "data/datasets", "data/loaders", "optim", "kmeans", "cam_inference", "cams",
        "auto_threshold",
        "cam_files", "cam_writing", "label_weights", "tag_scores", "pseudo", "pseudo_batch", "soft_labels", "seg_inference", "breakdown",
        "scoring", "metrics", "tally", "bootstrap", "boundary",
        "conventions", "scorecard", "checkpoint", "world", "ranks", "throughput", "region_picture",
        "network_card", "network_file", "onnx_file", "event_log", "overlay", "segmenter", "tiling",
    ],
    "engine": ["engine"],
    "stages": ["stages/*"],
    "export": ["export/*"],
    "cli": [
        "__init__", "cli", "options", "commands", "prepare_commands", "coco_command", "cam_commands", "score_commands", "export_commands",
        "inspect_commands", "predict_commands", "weights_command", "tensorboard_command", "settings_command", "settings_table",
        "bench_command", "workflow", "leave_pages", "launch", "loading",
        "voc_archives", "summary", "score_tables", "mask_score",
        "comparison", "reference", "suspects", "doctor", "run_checks", "report_commands", "report/*", "__main__",
    ],
}  # fmt: skip
ORDER = list(LAYERS)

# What a layer must not use although it is below it.
FORBIDDEN = {
    "foundation": {"torch", "torchvision"},
    "computation": {"config", "config_cls", "config_data", "config_io", "config_seg", "run", "steps", "console"},
    "engine": {"config", "config_cls", "config_data", "config_io", "config_seg", "run", "steps"},
    "stages": {"typer"},
    "export": {"typer", "torch", "torchvision"},
}

# Libraries with one door (or two) in the package.
DOORS = {
    "typer": [
        "cli", "options", "commands", "prepare_commands", "coco_command", "cam_commands", "score_commands", "export_commands",
        "inspect_commands", "predict_commands", "weights_command", "tensorboard_command", "settings_command", "bench_command",
        "report_commands",
    ],
    "jinja2": ["report/page"],
    "markupsafe": ["report/chart"],
    "rich": ["console"],
    "yaml": ["yaml_text"],
    "pydensecrf": ["refine/crf"],
    "pillow_heif": ["data/photos"],
    "pydantic": ["config", "config_cls", "config_data", "config_io", "config_seg"],
    "safetensors": ["models/weight_files"],
    "timm": ["models/timm_networks"],
    "pycocotools": ["data/coco_regions", "export/coco"],
    "onnx": ["onnx_file"],
    "onnxruntime": ["onnx_file"],
    "tensorboard": ["event_log"],
}

EXPORT = [module for module in MODULES if module.startswith("export/")]
REPORT = [module for module in MODULES if module.startswith("report/")]

# Where torch may be loaded: not by what runs in worker processes, which have to start fast.
WITHOUT_TORCH = [
    *LAYERS["foundation"], *(name for name in LAYERS["cli"] if name != "report/*"), *EXPORT, *REPORT,
    "pseudo", "refine/crf", "refine/lattice", "refine/affinity_labels", "scoring", "cams",
    "soft_labels", "breakdown", "label_weights", "overlay", "cam_files", "tag_scores", "metrics", "tally", "scorecard", "event_log",
    "stages/prepare", "stages/import_cams", "stages/sbd_masks", "stages/verify_data", "stages/voc_download",
]  # fmt: skip


def layer_of(module: str) -> str | None:
    folder = f"{module.rpartition('/')[0]}/*"
    return next((layer for layer, names in LAYERS.items() if module in names or folder in names), None)


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def imports_of(module: str, *, functions: bool = True, types: bool = True) -> frozenset[str]:
    """Libraries by name and our own modules by path; without those inside functions, or those for annotations only."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree_of(module)]
    while waiting:
        node = waiting.pop()
        if (isinstance(node, ast.FunctionDef) and not functions) or (is_type_checking(node) and not types):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {own(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = {own(f"{node.module}.{alias.name}") for alias in node.names}
            found |= {name if name in MODULES else own(str(node.module)) for name in names}
    return frozenset(found)


def own(dotted: str) -> str:
    """`rcatool.data.labels` -> `data/labels`; `PIL.Image` -> `PIL`."""
    if not dotted.startswith("rcatool"):
        return dotted.partition(".")[0]
    path = dotted.removeprefix("rcatool").removeprefix(".").replace(".", "/") or "__init__"
    return path if path in MODULES or f"{path}/__init__" not in MODULES else f"{path}/__init__"


@cache
def loaded_with(module: str) -> frozenset[str]:
    """All that importing `module` loads, through our own modules."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = imports_of(waiting.pop(), functions=False, types=False) - found
        found |= new
        waiting += [name for name in new if name in MODULES]
    return frozenset(found)


def test_the_reader_sees_imports() -> None:
    # The tests below would pass on a reader that finds nothing.
    assert {"torch", "run", "config", "console"} <= imports_of("stages/train_cls")
    assert "torch" not in loaded_with("run")
    assert {"torch", "errors"} <= loaded_with("stages/train_cls")
    assert "rich" in imports_of("console")
    assert "rich" not in imports_of("console", functions=False, types=False)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_layers(module: str) -> None:
    layer = layer_of(module)
    assert layer is not None, f"{module} is in no layer: add it to the table here and in docs/architecture.md"
    for name in imports_of(module):
        if name in MODULES and name != "__init__":
            below = layer_of(name)
            assert below is not None
            assert ORDER.index(below) <= ORDER.index(layer), f"{module} ({layer}) imports {name} ({below})"
        assert name not in FORBIDDEN.get(layer, set()), f"{module} ({layer}) must not use {name}"


def test_stages_do_not_import_each_other() -> None:
    commands = {f"stages/{step.word.replace('-', '_')}" for step in STEPS.values()}
    for module in commands:
        assert not imports_of(module) & commands


@pytest.mark.parametrize("library", DOORS)
def test_one_door_for_a_library(library: str) -> None:
    users = {module for module in MODULES if library in imports_of(module, types=False)}
    assert users
    assert users <= set(DOORS[library])


def test_processes_talk_to_each_other_in_one_place() -> None:
    users = {module for module in MODULES if "distributed" in (PACKAGE / f"{module}.py").read_text(encoding="utf-8")}
    assert users == {"ranks"}


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_these_modules_load_no_torch(module: str) -> None:
    assert not {"torch", "torchvision"} & loaded_with(module)


def test_nothing_is_unpickled_and_no_random_state_is_shared() -> None:
    pickle = r"pickle\.loads?\(|Unpickler\b|allow_pickle=True|weights_only=False"
    random = r"np\.random\.(seed|rand|randint|shuffle|choice)\(|^import random$"
    calls = re.compile(f"{pickle}|{random}", re.MULTILINE)
    for module in set(MODULES) - {"data/pickled"}:  # the one reader of pickles; its allow-list has tests of its own
        found = calls.search((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
        assert found is None, f"{module}: {found[0]}"


@pytest.mark.parametrize("module", MODULES)
def test_sizes(module: str) -> None:
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250, f"{module}: {len(lines)} lines"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 40, f"{module}.{node.name}: {length} lines"
            assert node.returns is not None, f"{module}.{node.name}: what it returns is not annotated"


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_and_no_blanket_except(module: str) -> None:
    tree = tree_of(module)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            reraised = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert caught not in ("", "Exception", "BaseException") or reraised, f"{module}:{node.lineno} swallows everything"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


def test_every_setting_belongs_to_one_step() -> None:
    # A setting that no step owns would change results without making them stale.
    for dotted in config_io.settings():
        section = dotted.partition(".")[0]
        # The scores quote how CAMs and labels were made: eval depends on those settings too, but does nothing with them. So do labels
        # with those of the refinement, but for which CAMs they are made of.
        # The second training is the first once more.
        quoted = {
            "eval": ("cam", "affinity", "refine", "pseudo", "second"), "make-pseudo/labels": ("refine",), "train-seg-2": ("seg", "seed"),
        }  # fmt: skip
        owners = [step.name for step in STEPS.values() if section in step.settings and section not in quoted.get(step.name, ())]
        if section == "runtime":
            assert owners == []
        elif dotted == "seed":
            assert owners == ["train-cls", "make-pseudo/affinity", "train-seg"]
        else:
            assert len(owners) == 1, dotted
    assert NOT_FINGERPRINTED == ("data.root",)


def test_every_step_has_a_stage_and_its_inputs_come_before_it() -> None:
    names = list(STEPS)
    for index, step in enumerate(STEPS.values()):
        assert f"stages/{step.word.replace('-', '_')}" in MODULES
        folder = step.name.split("/")[0]
        assert folder == step.word or (step.round == 2 and step.word == "train-seg")  # which makes all of the second round
        assert set(step.inputs) | set(step.optional_inputs) <= set(names[:index])
