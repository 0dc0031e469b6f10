"""The steps of a run: what each reads, which settings it depends on, and what to type to make it.

The settings and input digests of a step, hashed, are its fingerprint; comparing fingerprints tells whether a result is current.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcatool import config_io
from rcatool.config import Config
from rcatool.config_data import Data
from rcatool.config_seg import Seg

FORMAT = 1  # version of all files a step writes; a change makes every finished step stale


@dataclass(frozen=True)
class Step:
    """One step: `inputs` must be current before it starts, `optional_inputs` are used where they are.

    `settings` are sections of the configuration. `word` is the command that makes it: `make-pseudo`. `methods` are the values of
    `refine.method` that there is such a step for; empty: all. A step of round 2 is there only with `second.enabled`.
    """

    name: str
    word: str
    settings: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    round: int = 1

    def command(self, run: Path, config: Config | None = None) -> str:
        """What to type to make this step."""
        data = config.data if config else None
        if self.name != "prepare":
            words = f"rca {self.word}"
        elif data is not None and data.dataset == "folder":
            words = "rca prepare folder --images DIR --tags FILE"
        elif data is not None and data.dataset == "shapes":
            words = "rca prepare shapes"
        elif data is not None and data.dataset == "coco":
            words = _prepare_coco(data)
        else:
            words = f"rca prepare voc --root {shlex.quote(data.root) if data and data.root else 'DIR'}"
        return f"{words} --run {shlex.quote(str(run))}"


# Every step there can be; `in_force` leaves out those that a run's settings have no use for.
STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("prepare", "prepare", ("data",)),
        Step("train-cls", "train-cls", ("cls", "memory", "seed"), ("prepare",)),
        Step("make-pseudo/cams", "make-pseudo", ("cam",), ("train-cls", "prepare")),
        Step(
            "make-pseudo/affinity", "make-pseudo", ("affinity", "seed"), ("make-pseudo/cams", "train-cls", "prepare"),
            methods=("affinity", "irn"),
        ),
        Step(
            "make-pseudo/refined", "make-pseudo", ("refine",), ("make-pseudo/cams", "make-pseudo/affinity", "train-cls", "prepare"),
            methods=("walk", "affinity", "irn"),
        ),
        Step("make-pseudo/labels", "make-pseudo", ("refine", "pseudo"), ("make-pseudo/cams", "make-pseudo/refined", "prepare")),
        Step("train-seg", "train-seg", ("seg", "seed"), ("make-pseudo/labels", "prepare")),
        Step("make-pseudo/round-2", "train-seg", ("second",), ("train-seg", "prepare"), round=2),
        Step("train-seg-2", "train-seg", ("seg", "seed"), ("make-pseudo/round-2", "prepare"), round=2),
        # The scores quote how CAMs and labels were made, so they are made again where that changed and the files did not.
        Step(
            "eval", "eval", ("eval", "cam", "affinity", "refine", "pseudo", "second"), ("prepare",),
            ("make-pseudo/cams", "make-pseudo/refined", "make-pseudo/labels", "train-seg", "make-pseudo/round-2", "train-seg-2"),
        ),
    )
}  # fmt: skip


def in_force(config: Config) -> dict[str, Step]:
    """The steps of a run with these settings, in order; none has an input that is not among them."""
    rounds, method = 2 if config.second.enabled else 1, config.refine.method
    found = {name: step for name, step in STEPS.items() if step.round <= rounds and (not step.methods or method in step.methods)}
    for name in _without_classifier(config) & set(found):
        found[name] = replace(found[name], inputs=tuple(one for one in found[name].inputs if one != "train-cls"))
    found["train-seg"] = _learning(found["train-seg"], config.seg)
    return {name: replace(step, inputs=_those(step.inputs, found), optional_inputs=_those(step.optional_inputs, found))
            for name, step in found.items()}  # fmt: skip


def _without_classifier(config: Config) -> set[str]:
    """The steps of make-pseudo that need no network of train-cls: CAMs that are imported, affinities on weights of their own."""
    needs = {"cams": not config.cam.source, "affinity": config.affinity.weights == "train-cls", "refined": config.refine.method == "walk"}
    return {f"make-pseudo/{name}" for name, needed in needs.items() if not needed}


def _learning(step: Step, settings: Seg) -> Step:
    """train-seg with what it learns from: true masks need no pseudo labels, weights from the CAM need the CAM beside them."""
    start = ("train-cls",) if settings.weights == "train-cls" else ()
    if settings.labels == "truth":
        return replace(step, inputs=(*start, "prepare"))
    if settings.noise == "confidence":
        inputs = ("make-pseudo/cams", "make-pseudo/refined", *start, *step.inputs)
        return replace(step, settings=(*step.settings, "pseudo"), inputs=inputs)
    return replace(step, inputs=(*start, *step.inputs))


def is_needed(name: str, config: Config) -> bool:
    """Whether the segmentation network is made from this step (or a step of this command); of imported CAMs or true masks it needs less."""
    wanted: set[str] = set()
    for step in reversed(in_force(config).values()):
        if step.name in wanted or step.word in ("train-seg", "eval"):
            wanted |= {step.name, step.word, *step.inputs}
    return name in wanted


def last_network(config: Config) -> str:
    """The step that makes the network of a run: the one whose score is `seg`, that predicts and is exported."""
    return scored_networks(config.second.enabled)["seg"]


def scored_networks(second: bool) -> dict[str, str]:
    """The networks that eval scores, as target -> step, in order; `second` as in `second.enabled`."""
    return {"seg_1": "train-seg", "seg": "train-seg-2"} if second else {"seg": "train-seg"}


def _those(names: tuple[str, ...], among: Mapping[str, Step]) -> tuple[str, ...]:
    return tuple(name for name in names if name in among)


@dataclass(frozen=True)
class State:
    """How a step stands: missing, running (unfinished), current, stale or damaged, and why."""

    kind: str
    reasons: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether the result can be used as it is."""
        return self.kind == "current"

    @property
    def is_outdated(self) -> bool:
        """Whether the result is stale only because what it was made from has been made again."""
        return self.kind == "stale" and all(reason.startswith("input ") and reason.endswith(" changed") for reason in self.reasons)

    @property
    def is_in_the_way(self) -> bool:
        """Whether a step that could do without this result must not: it is there, but not what the settings say."""
        return self.kind == "damaged" or (self.kind == "stale" and not self.is_outdated)

    def as_input(self, name: str) -> list[str]:
        """The reasons a step is stale whose input `name` this is, and is not what it was."""
        if self.kind == "stale":
            return list(self.reasons)
        return [f"input {name} changed" if self.is_current else f"input {name} is {self.describe()}"]

    def describe(self) -> str:
        """`stale (pseudo.bg_threshold: 0.3 -> 0.4)`."""
        kind = "unfinished" if self.kind == "running" else self.kind
        return f"{kind} ({'; '.join(self.reasons)})" if self.reasons else kind


def _prepare_coco(data: Data) -> str:
    """What to type to prepare COCO with the same folders; other settings are kept by the run."""
    root = Path(data.root)
    words = f"rca prepare coco --root {shlex.quote(str(root / data.images)) if data.root else 'DIR'}"
    for option, folder in {"--masks": data.masks, "--masks-out": data.coco_masks}.items():
        words += f" {option} {shlex.quote(str(root / folder))}" if folder else ""
    return words


# The settings of `runtime` belong to no step; this one says where, not what: it never makes a result stale.
NOT_FINGERPRINTED = ("data.root",)


def settings_used(step: Step, config: Config) -> dict[str, Any]:
    """The settings that `step` depends on, by dotted name, as JSON values."""
    used: dict[str, Any] = {}
    for dotted in config_io.settings():
        section = dotted.partition(".")[0]
        if section not in step.settings or dotted in NOT_FINGERPRINTED:
            continue
        if dotted.startswith("data.coco_") and config.data.dataset != "coco":
            continue
        if dotted == "data.saliency" and not config.data.saliency:
            continue
        if section == "second" and not config.second.enabled:
            continue  # so that a round that is added later leaves the first as it is
        if section == "cam" and not _is_used(dotted, config):
            continue
        if section == "memory" and config.cls.method == "cam":
            continue  # the plain CAM has no memory
        if section in ("refine", "affinity") and not _has_say(dotted, config.refine.method):
            continue
        value = config_io.get(config, dotted)
        used[dotted] = list(value) if isinstance(value, tuple) else value
    return used


def _is_used(dotted: str, config: Config) -> bool:
    """Whether a setting of `cam` counts: imported CAMs depend on where they come from and the stride only, our own on all others."""
    return (dotted.startswith("cam.source") or dotted == "cam.stride") if config.cam.source else not dotted.startswith("cam.source")


# The settings of `affinity` that one method alone has; those of `refine` begin with their method's name.
_ONLY_FOR = {"affinity.powers": "affinity", "affinity.thresholds": "irn"}


def _has_say(dotted: str, method: str) -> bool:
    """Whether a setting of `refine` or `affinity` means anything to a `refine.method`."""
    section, _, name = dotted.partition(".")
    if section == "refine":
        return name == "method" or name.startswith(f"{method}_")
    return method in STEPS["make-pseudo/affinity"].methods and _ONLY_FOR.get(dotted, method) == method


def fingerprint(step: Step, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """Hexadecimal digest of all that determines the result of `step`."""
    content = {"step": step.name, "format": FORMAT, "settings": settings, "inputs": inputs}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def first_to_make(step: str, current: set[str], config: Config) -> str:
    """The first step to make so that `step` can be made: itself, or one that it depends on and that is not in `current`."""
    for name in in_force(config)[step].inputs:
        if name not in current:
            return first_to_make(name, current, config)
    return step


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """`name: old -> new` for each setting that differs."""
    return [
        f"{name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in [*after, *(name for name in before if name not in after)]
        if name not in before or name not in after or before[name] != after[name]
    ]


def _shown(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return "(not used)"
    value = values[name]
    if isinstance(value, str):
        return value[:19] if value.startswith("sha256:") else value or '""'
    return json.dumps(value)
