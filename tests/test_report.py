"""RUN/report.html: read back with an HTML parser and held against the files it was made of."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from PIL import Image
from tiny_run import STEPS, TinyRun, assign

from rcatool.data.labels import read_mask
from rcatool.data.manifest import read_manifest
from rcatool.metrics import confusion_matrix, scores
from rcatool.report import galleries, page
from rcatool.report.panels import open_album
from rcatool.report.photo_scores import choose, choose_for_classes, class_iou, photo_miou
from rcatool.run import Run
from rcatool.tally import read_photo_tables

Rca = Callable[..., Result]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page as its tags with attributes, its words by section, and the rows of its tables; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words[self._section] = self.words.get(self._section, "") + data
        if "tr" in self._open and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def metrics_of(run: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    document: dict[str, dict] = json.loads((run / "eval" / "metrics.json").read_text())  # type: ignore[type-arg]
    return document


def check_safe(found: Page, run: Path) -> None:
    """Opens from disk, runs nothing, tells those who cannot see what its pictures are."""
    assert not found.all("script")
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "action", "data", "srcset"):
            assert name not in attributes or str(attributes[name]).startswith(("data:image/jpeg;base64,", "#")), attributes
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    for image in found.all("img"):
        assert image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(str(image["src"]).partition(",")[2]))) as picture:
            assert [str(side) for side in picture.size] == [image["width"], image["height"]]
    assert all(svg["aria-label"] for svg in found.all("svg"))
    targets = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    assert {str(link["href"])[1:] for link in found.all("a")} <= targets


def test_every_command_leaves_a_page(undisturbed: TinyRun) -> None:
    found = read(undisturbed.path)
    check_safe(found, undisturbed.path)
    assert len(found.all("img")) > 20
    assert (undisturbed.path / "report.html").stat().st_size < 6_000_000
    assert "Next:" not in found.words[""]


def test_its_numbers_are_those_of_the_scores(undisturbed: TinyRun) -> None:
    found, metrics = read(undisturbed.path), metrics_of(undisturbed.path)
    assert f"{100 * metrics['seg']['miou']:.1f}" in found.words["scores"]
    rows = {row[0]: row for row in found.rows}
    for target, name in {"cam": "CAMs", "pseudo": "pseudo labels", "seg": "segmentation network"}.items():
        low, high = metrics[target]["interval"]["wrong"]
        assert rows[name][1:3] == [f"{100 * metrics[target]['miou']:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"] or target == "cam"
    for name, iou in metrics["seg"]["iou"].items():
        expected = ["-" if metrics[t]["iou"][name] is None else f"{100 * metrics[t]['iou'][name]:.1f}" for t in ("seg", "cam", "pseudo")]
        assert [row[2:] for row in found.rows if row[:2] == [name, ""]] == [expected], name
        assert iou is None or f'<i style="width:{100 * iou:.1f}%"></i>' in (undisturbed.path / "report.html").read_text()
    told = metrics["seg"]["protocol"]["ground_truth"]
    assert told in found.words["scores"]
    for pair in metrics["seg"]["confused"]:
        assert [pair["truth"], pair["taken_for"], f"{100 * pair['share']:.1f}", f"{pair['pixels']:,}"] in found.rows


def test_settings_commands_and_steps(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    assert rca("make-pseudo", "--run", run, *assign("pseudo.bg_threshold=0.45")).code == 0
    found = read(run)
    assert ["pseudo.bg_threshold", "0.45"] in [[row[0], row[2]] for row in found.rows if len(row) == 4]
    names = {row[0] for row in found.rows if len(row) == 4}
    assert "cls.flip" not in names  # as in the file the run began with
    assert "stale" in next(row for row in found.rows if row[0] == "train-seg")[1]
    assert f"rca train-seg --run {run}" in found.words[""]  # next
    assert "train-seg" in found.words["run"]


def absent(run: Path) -> set[str]:
    """The sections that say which command makes them."""
    text = (run / "report.html").read_text(encoding="utf-8")
    return {part.partition('"')[0] for part in text.split('<section id="')[1:] if 'class="absent"' in part}


def test_parts_that_are_not_there_name_their_command(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    scored = {"scores": "eval", "threshold": "eval", "classes": "eval", "errors": "eval"}
    missing = {**scored, "training": "train-cls", "tags": "make-pseudo"}
    for step, without in {
        "prepare": {*missing, "photos", "memory"}, "train-cls": {*missing, "memory"},
        "make-pseudo/cams": {*scored, "tags"}, "eval": {*scored},
    }.items():  # fmt: skip
        run = undisturbed.copy(tmp_path / step.replace("/", "-"), until=step)
        done = rca("report", "--run", run)
        assert (done.code, done.out) == (0, f"{run / 'report.html'}\n"), done.err
        found = read(run)
        check_safe(found, run)
        assert absent(run) == without, step
        for section, word in missing.items():
            assert section not in without or f"rca {word} --run {run}" in found.words[section]
    assert rca("report", "--run", tmp_path / "nothing").code == 4


def test_names_are_text(undisturbed: TinyRun, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = undisturbed.copy(tmp_path / "a&b<i>")
    for file in ("prepare/classes.json", "eval/metrics.json", "prepare/summary.json"):
        path = run / file
        path.write_text(path.read_text().replace('"ring"', json.dumps(evil)))
    with (run / "run.log").open("a") as log:
        log.write(f"2026-01-01 10:00:00 warning: {evil} {{{{ 7 * 7 }}}}\n")
    page.write_report(Run(run), Run(run).read_config())
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<i>" not in text
    found = read(run)
    check_safe(found, run)
    assert evil in {row[0] for row in found.rows}
    assert f"{evil} {{{{ 7 * 7 }}}}" in found.words[""]
    assert any(evil in str(image["alt"]) for image in found.all("img"))


def test_broken_files_do_not_keep_the_page_from_being_written(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run")
    label = next((run / "make-pseudo" / "labels").glob("*.png"))
    for path in (run / "make-pseudo" / "labels").glob("*.png"):
        path.write_bytes(b"no picture")
    for name in ("eval/stage.json", "train-cls/log.jsonl"):
        (run / name).write_text('{"half": ')
    assert rca("report", "--run", run).code == 0
    found = read(run)
    assert str(label.parent) in found.words[""]
    assert "damaged" in found.words["run"] or "broken" in found.words["run"]
    for name in ("eval/metrics.json", "eval/per_image.npz", "prepare/classes.json"):
        (run / name).write_bytes(b"{")
        assert rca("report", "--run", run).code == 0
        assert name.rpartition("/")[2] in read(run).words[""]


def test_a_step_that_reads_no_mask_shows_none(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run, data = undisturbed.copy(tmp_path / "run"), tmp_path / "data"
    shutil.copytree(undisturbed.data, data)
    for mask in (data / "SegmentationClassAug").iterdir():
        mask.unlink()
    assert rca("make-pseudo", "--run", run, *assign("pseudo.bg_threshold=0.45", f"data.root={data}")).code == 0
    found = read(run)
    titles = {str(image["alt"]).partition(" of ")[0] for image in found.all("img")}
    titles = {title for title in titles if not re.match(r"(train|val|tune)_|a region", title)}  # of tags and of the region memory
    assert titles == {"photo", "CAM", "pseudo label", "prediction"}
    assert "This page" not in found.words[""]  # no mask was missed
    assert rca("report", "--run", run).code == 0
    assert "SegmentationClassAug" in read(run).words[""]


def test_photo_scores_are_those_of_the_masks(undisturbed: TinyRun) -> None:
    run = undisturbed.path
    table = read_photo_tables(run / "eval" / "per_image.npz")["seg"]
    found = photo_miou(table, 5)
    samples = {sample.id: sample for sample in read_manifest(run / "prepare" / "manifest.jsonl")}
    for photo, miou in zip(table.ids, found, strict=True):
        truth = read_mask(undisturbed.data / str(samples[photo].mask), num_classes=4)
        matrix = confusion_matrix(truth, read_mask(run / "eval" / "predictions" / f"{photo}.png", num_classes=4), 5)
        assert miou == pytest.approx(scores(matrix).miou, abs=1e-12)
    shown = [figure for figure in read(run).words["photos"].split() if re.fullmatch(r"\d+\.\d", figure)]
    assert f"{100 * found.min():.1f}" in shown
    assert f"{100 * found.max():.1f}" in shown


def test_which_photos_are_shown() -> None:
    miou = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.7, 0.3, 0.2, 0.8, 0.6, 0.4, 0.35, 0.25, 0.45, 0.55])
    chosen = choose(miou)
    assert (chosen.best, chosen.worst) == ([2, 8, 4, 5], [3, 7, 12, 6])
    assert len(chosen.random) == 4
    assert not set(chosen.random) & {1, *chosen.best, *chosen.worst}
    assert choose(miou) == chosen
    few = choose(miou[:4])
    assert (few.best, few.worst, few.random) == ([2, 0, 3], [], [])
    assert choose(np.array([np.nan])) == ([], [], [])


def test_each_class_has_photos_of_its_own() -> None:
    nan = np.nan
    iou = np.array([[1, 0.5, nan], [1, 0.2, 0.9], [1, 0.9, 0.1], [1, nan, 0.3], [1, 0.7, nan], [1, 0.6, 0.05], [1, nan, nan]])
    found = choose_for_classes(iou, {5})
    # In turns: the worst of both, the best of both, the second worst, ...; photo 5 is shown anyway.
    assert [(one.index, one.label, one.worst) for one in found] == [(1, 1, True), (2, 2, True), (4, 1, False), (3, 2, False), (0, 1, True)]
    assert choose_for_classes(iou, {5}, most=3) == found[:3]
    assert choose_for_classes(np.full((3, 4), nan), set()) == []


def test_iou_of_a_class_is_that_of_the_masks(undisturbed: TinyRun) -> None:
    run = undisturbed.path
    table = read_photo_tables(run / "eval" / "per_image.npz")["pseudo"]
    samples = {sample.id: sample for sample in read_manifest(run / "prepare" / "manifest.jsonl")}
    for photo, found in zip(table.ids, class_iou(table, 5), strict=True):
        truth = read_mask(undisturbed.data / str(samples[photo].mask), num_classes=4)
        made = read_mask(run / "make-pseudo" / "labels" / f"{photo}.png", num_classes=4)
        counts = truth != 255
        for label, value in enumerate(found.tolist()):
            there, said = (truth == label) & counts, (made == label) & counts
            expected = (there & said).sum() / (there | said).sum() if there.any() else None
            assert np.isnan(value) if expected is None else value == pytest.approx(expected)


def test_tags_that_the_classifier_doubts(rca: Rca, undisturbed: TinyRun) -> None:
    document = json.loads(rca("inspect", "tags", "--run", undisturbed.path, "--json", "--most", 12).out)
    text = (undisturbed.path / "report.html").read_text(encoding="utf-8").partition('<section id="tags">')[2].partition("</section>")[0]
    shown = re.findall(r'<figcaption><b>([^<]*)</b> <span class="score">([\d.]+) %</span>.*?<span class="soft">([^<]*)</span>', text)
    lines = [line for kind in ("doubted", "unnamed") for line in document[kind]["first"]]
    assert [(name, photo) for name, _, photo in shown] == [(line["class"], line["photo"]) for line in lines]
    for (_, score, _), line in zip(shown, lines, strict=True):
        assert float(score) == pytest.approx(100 * line["probability"], abs=0.06)
    assert text.count("unusual</span>") == sum(line["beyond"] for line in lines)


def test_pictures_stay_within_their_bytes(undisturbed: TinyRun) -> None:
    album = open_album(Run(undisturbed.path), Run(undisturbed.path).read_config())
    tables = galleries.read_tables(album)
    whole = galleries.Budget()
    everything = galleries.galleries(album, tables, whole)
    spent = galleries.MOST_BYTES - whole.left
    assert whole.left_out == 0
    tight = galleries.Budget(spent // 3)
    some = galleries.galleries(album, tables, tight)
    uris = [cell.uri for gallery in some for group in gallery.groups for strip in group.strips for cell in strip.panels]
    assert 0 < sum(map(len, uris)) <= spent // 3
    number = [
        sum(not strip.extra for gallery in each for group in gallery.groups for strip in group.strips) for each in (everything, some)
    ]
    assert number[0] == number[1] + tight.left_out


def test_a_page_that_cannot_be_written_costs_a_warning_only(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    run = undisturbed.copy(tmp_path / "run", until="eval")
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    done = rca("eval", "--run", run)
    assert done.code == 0
    assert "warning: no report: " in done.err
    assert (run / "eval" / "metrics.json").exists()


def test_where_the_page_goes(rca: Rca, undisturbed: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert rca("report", "--run", undisturbed.path, "--out", out).out == f"{out}\n"
    assert rca("report", "--run", undisturbed.path, "--out", out).code == 2
    assert rca("report", "--run", undisturbed.path, "--out", out, "--force").code == 0
    refused = rca("report", "--run", undisturbed.path, "--out", tmp_path / "page.pdf")
    assert (refused.code, "ends in .html" in refused.err) == (2, True)


def test_steps_are_all_known_to_the_page(undisturbed: TinyRun) -> None:
    states = {row[0]: row[1] for row in read(undisturbed.path).rows if len(row) == 5}
    assert {step: states[step] for step in STEPS} == dict.fromkeys(STEPS, "current")
