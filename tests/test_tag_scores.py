"""The classifier's scores beside the CAMs, against a look of our own; the tags that it doubts, against a slow search; what is broken."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from tiny_run import TinyRun, contents

from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.manifest import Sample, split
from rcatool.errors import DataError
from rcatool.run import Run
from rcatool.stages.networks import load_cls, read_data
from rcatool.tag_scores import TagScores, add_scores, doubts, join_scores, kept_scores, read_scores
from rcatool.world import World

Rca = Callable[..., Result]


def sample(photo: str, classes: tuple[int, ...]) -> Sample:
    return Sample(photo, "train", f"{photo}.jpg", None, (4, 4), classes, 0, "0" * 64)


def test_scores_are_the_networks_own(undisturbed: TinyRun) -> None:
    run = Run(undisturbed.path)
    config = run.read_config()
    classes, samples = read_data(run)
    found = read_scores(run.dir("make-pseudo/cams"), num_classes=classes.num_classes)
    tagged = [one for one in split(samples, "train") + split(samples, "tune") if one.classes]
    assert found.ids == tuple(one.id for one in tagged)
    model = load_cls(run, config, World(torch.device("cpu"), None))
    dataset = MultiScaleDataset(tagged, undisturbed.data, scales=config.cam.scales, flip=config.cam.flip)
    for number in (0, len(tagged) // 2, len(tagged) - 1):
        looks = []
        for view in dataset[number][1]:
            for image in view:  # one by one, not as a batch
                with torch.inference_mode():
                    looks.append(model(image[None]).final[0].flatten(1).double().mean(dim=1))
        expected = torch.stack(looks).mean(dim=0).numpy()
        assert np.abs(found.logits[number] - expected).max() <= 1e-3 * max(1, np.abs(expected).max())
    assert np.allclose(found.probabilities, torch.from_numpy(found.logits.astype(np.float64)).sigmoid().numpy())


def test_doubts_are_those_of_a_slow_search() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (30, 5)).astype(np.float16)
    samples = [sample(f"p{k:02}", tuple(np.flatnonzero(rng.random(5) < 0.4).tolist())) for k in range(30)]
    scores = TagScores(tuple(one.id for one in samples), logits)
    p = {(one.id, c): 1 / (1 + np.exp(-float(logits[k, c]))) for k, one in enumerate(samples) for c in range(5)}
    tags = {(one.id, c) for one in samples for c in one.classes}
    for found, among, sign in zip(doubts(scores, samples, most=7), (tags, set(p) - tags), (1, -1), strict=True):
        usual = {}
        for c in range(5):
            others = [p[place] for place in p if place[1] == c and (place in tags) != (sign == 1)]
            usual[c] = sum(others) / len(others)
        odds = {place: p[place] / (1 - p[place]) * (1 - usual[place[1]]) / usual[place[1]] for place in among}
        order = sorted(among, key=lambda place: sign * odds[place])
        assert [(one.photo, one.cls) for one in found.first] == order[:7]
        assert [one.probability for one in found.first] == pytest.approx([p[place] for place in order[:7]])
        past = {place for place in among if sign * (usual[place[1]] - p[place]) >= 0}
        assert found.says_little == (len(past) > len(among) / 5)
        assert (found.total, found.beyond) == (len(among), len(past))
        assert [one.beyond for one in found.first] == [place in past for place in order[:7]]


def test_a_class_that_all_photos_or_none_have_is_never_beyond() -> None:
    scores = TagScores(("a", "b", "gone"), np.array([[-5, 5], [-6, 6], [9, 9]], np.float16))
    tagged, untagged = doubts(scores, [sample("a", (0,)), sample("b", (0,))], most=9)
    assert ([one.photo for one in tagged.first], tagged.beyond) == (["b", "a"], 0)
    assert ([one.photo for one in untagged.first], untagged.beyond) == (["b", "a"], 0)
    assert not tagged.says_little


def test_a_class_that_is_learned_badly_does_not_fill_the_list() -> None:
    # Class 0 is well known, and one photo of it is doubted at 40 %; class 1 never gets beyond 3 %, tagged or not.
    logits = np.array([[3, -4.1], [4, -4.0], [-0.4, -3.9], [-3, -4.0], [-4, -4.2], [-3, -3.8]], np.float16)
    samples = [sample("abcdef"[k], (0, 1) if k < 3 else ()) for k in range(6)]
    tagged, _ = doubts(TagScores(tuple("abcdef"), logits), samples, most=6)
    assert [(one.photo, one.cls) for one in tagged.first][:3] == [("a", 1), ("b", 1), ("c", 1)]  # at their class's usual, more or less
    well = doubts(TagScores(tuple("abcdef"), np.where(logits == np.float16(-0.4), np.float16(-3.5), logits)), samples, most=1)[0]
    assert [(one.photo, one.cls, one.beyond) for one in well.first] == [("c", 0, True)]


def test_parts_are_joined_whatever_process_wrote_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = {photo: rng.normal(0, 3, 4).astype(np.float32) for photo in "abcd"}
    add_scores(tmp_path, "a", logits["b"], process=0)  # of a photo whose CAM was not written: done again
    for process, photo in ((1, "c"), (0, "a"), (0, "d"), (1, "b")):
        add_scores(tmp_path, photo, logits[photo], process=process)
    with (tmp_path / ".scores-1.jsonl").open("a") as file:
        file.write('{"id": "c", "logits": [1, 2')
    assert set(kept_scores(tmp_path, 4)) == set("abcd")
    assert kept_scores(tmp_path, 3) == {}
    join_scores(tmp_path, [*"abcd"], 4)
    assert [path.name for path in tmp_path.iterdir()] == ["tags.scores"]
    found = read_scores(tmp_path, num_classes=4)
    assert found.ids == tuple("abcd")
    assert np.array_equal(found.logits, np.stack([*logits.values()]).astype(np.float16))
    assert set(kept_scores(tmp_path, 4)) == set("abcd")
    add_scores(tmp_path, "a", np.array([1e9, -1e9, 0, 1], np.float32), process=0)
    assert kept_scores(tmp_path, 4)["a"].tolist() == [500, -500, 0, 1]


@pytest.mark.parametrize("lost", [["tags.scores"], ["train_00003.npz"], ["train_00003.npz", "tags.scores"]])
def test_what_is_lost_is_made_again_to_the_byte(rca: Rca, undisturbed: TinyRun, tmp_path: Path, lost: list[str]) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/labels")
    cams = run / "make-pseudo" / "cams"
    before = contents(cams)
    for name in lost:
        (cams / name).unlink()
    assert rca("make-pseudo", "--run", run).code == 0
    after = contents(cams)
    assert {**after, "stage.json": ""} == {**before, "stage.json": ""}


def test_a_wrong_tag_comes_first(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    classes, samples = read_data(Run(run))
    cams = run / "make-pseudo" / "cams"
    scores = read_scores(cams, num_classes=classes.num_classes)
    known = {one.id: one for one in samples}
    tagged = np.array([[c in known[photo].classes for c in range(classes.num_classes)] for photo in scores.ids])
    logits = np.where(tagged, 3, -3).astype(np.float16)
    (row, cls), (other, missing) = np.argwhere(tagged)[3], np.argwhere(~tagged)[5]
    logits[row, cls], logits[other, missing] = -4, 4
    (cams / "tags.scores").unlink()
    for photo, line in zip(scores.ids, logits, strict=True):
        add_scores(cams, photo, line, process=0)
    join_scores(cams, scores.ids, classes.num_classes)
    document = json.loads(rca("inspect", "tags", "--run", run, "--json", "--most", 3).out)
    for kind, place, shown in (("doubted", (row, cls), 0.018), ("unnamed", (other, missing), 0.982)):
        first = document[kind]["first"]
        assert (len(first), document[kind]["beyond"]) == (3, 1)
        expected = {"photo": scores.ids[place[0]], "class": classes.names[place[1]], "probability": pytest.approx(shown, abs=5e-4)}
        assert first[0] == {**expected, "beyond": True}
    assert scores.ids[row] in rca("inspect", "tags", "--run", run).out


def test_what_cannot_be_read_is_refused(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    path = run / "make-pseudo" / "cams" / "tags.scores"
    whole = path.read_bytes()
    with np.load(path) as arrays:
        ids, logits = arrays["ids"], arrays["logits"]
    wrong_logits = (logits[1:], logits.astype(np.float64), logits * np.float16(np.nan))
    for change in (*({"logits": each} for each in wrong_logits), {"ids": np.arange(len(ids))}):
        with path.open("wb") as file:
            np.savez(file, **({"ids": ids, "logits": logits} | change))
        with pytest.raises(DataError, match="not scores of 4 classes"):
            read_scores(path.parent, num_classes=4)
    path.write_bytes(whole[:-40])
    refused = rca("inspect", "tags", "--run", run)
    assert (refused.code, "not a readable file of scores" in refused.err) == (3, True)
    path.unlink()
    refused = rca("inspect", "tags", "--run", run)
    assert (refused.code, f"rca make-pseudo --run {run}" in refused.err) == (4, True)
    assert rca("inspect", "tags", "--run", tmp_path / "nowhere").code == 4


def test_imported_cams_have_no_scores(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="make-pseudo/cams")
    done = rca("import-cams", undisturbed.path / "make-pseudo" / "cams", "--format", "npz", "--run", run)
    assert done.code == 0, done.err
    refused = rca("inspect", "tags", "--run", run)
    assert (refused.code, "came from elsewhere" in refused.err) == (4, True)
