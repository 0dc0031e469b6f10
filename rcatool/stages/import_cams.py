"""Other people's CAM files as make-pseudo/cams/<id>.npz: any method's seeds, with our labels, networks and scores after them.

Reads files and tags, no photo and no mask, photo by photo, and skips what is there already. No torch, so that pools start fast.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from rcatool import console
from rcatool.cam_files import LAYOUTS, Imported, ImportJob, Layout, import_cam, read_maps
from rcatool.config import Cam, Config
from rcatool.data.labels import ClassInfo, read_classes
from rcatool.data.manifest import Sample, first_few, read_manifest, split
from rcatool.errors import ConfigError, DataError, together
from rcatool.pool import attempt, parallel_map, worker_count
from rcatool.run import Run

STEP = "make-pseudo/cams"
ENOUGH = 20  # photos after which another way of counting classes is not chance


def main(run: Run, config: Config, *, force: bool = False) -> None:
    """Bring make-pseudo/cams up to date with the files in cam.source.

    DataError where photos of train or tune have no file (unless cam.source_missing), or the classes in the files are counted
    another way; ConfigError for a folder that is not there.
    """
    if not force and run.state(STEP, config).is_current:
        run.begin(STEP, config)  # says that it is up to date
        return
    # Nothing of an earlier result is put aside before the files are known to be there, and of this format.
    run.check_inputs(STEP, config)
    tagged, classes = _tagged(run)
    sources, layout = _find(tagged, config), _layout(config.cam)
    read_maps(next(path for path in sources.values() if path is not None), layout=layout)
    step = run.begin(STEP, config, force=force)
    assert step is not None, "a step that was not current a moment ago"
    jobs = [ImportJob(sources[s.id], step.path / f"{s.id}.npz", s.size, s.classes, config.cam.stride) for s in tagged]
    todo = [job for job in jobs if not job.target.exists()]
    there = f", {len(jobs) - len(todo)} are there already" if len(todo) < len(jobs) else ""
    console.log(f"import-cams: CAMs of {len(jobs)} photos from {config.cam.source} ({config.cam.source_format}){there}")
    work = partial(attempt, partial(import_cam, layout=layout, num_classes=classes.num_classes))
    with console.progress("import-cams", total=len(jobs)) as bar:
        bar.advance(len(jobs) - len(todo))
        results = parallel_map(work, todo, workers=worker_count(config.runtime.workers), bar=bar.advance)
        found, broken = _sorted_out(results, layout)
    if broken:
        raise together(broken)
    counts = _counts(found, sources)
    run.commit(step, {"photos": len(jobs), "imported": {"from": config.cam.source, "format": config.cam.source_format, **counts}})
    _tell(counts)


def _tagged(run: Run) -> tuple[list[Sample], ClassInfo]:
    """The train and tune photos that have tags, and the classes."""
    prepared = run.dir("prepare")
    classes = read_classes(prepared / "classes.json")
    samples = read_manifest(prepared / "manifest.jsonl", num_classes=classes.num_classes)
    return [sample for sample in split(samples, "train") + split(samples, "tune") if sample.classes], classes


def _layout(settings: Cam) -> Layout:
    layout = LAYOUTS[settings.source_format]
    return layout if settings.source_first < 0 else replace(layout, first=settings.source_first)


def _find(samples: Sequence[Sample], config: Config) -> dict[str, Path | None]:
    """Id -> the file of each photo, by its id, its path below the folder of photos or its name; None where there is none."""
    folder, suffix = Path(config.cam.source), LAYOUTS[config.cam.source_format].suffix
    if not folder.is_dir():
        raise ConfigError(f"cam.source: {folder} is not a folder", "rca import-cams DIR --format NAME; --set cam.source= for our own CAMs")
    found: dict[str, Path | None] = {}
    for sample in samples:
        photo = PurePosixPath(sample.image)
        inside = photo.relative_to(config.data.images) if photo.is_relative_to(config.data.images) else PurePosixPath(photo.name)
        names = (folder / f"{sample.id}{suffix}", folder / inside.with_suffix(suffix), folder / f"{photo.stem}{suffix}")
        found[sample.id] = next((name for name in names if name.is_file()), None)
    missing = [sample.id for sample in samples if found[sample.id] is None]
    if len(missing) == len(samples):
        raise DataError(f"{folder}: no CAM file, such as {missing[0]}{suffix}", "they have the names of the photos; see --format")
    if missing and not config.cam.source_missing:
        message = f"{folder}: no CAM file for {len(missing)} of {len(samples)} photos: {first_few(missing)}"
        raise DataError(message, "make them, or leave these photos out of the labels with --allow-missing")
    return found


def _sorted_out(results: Iterable[Imported | DataError], layout: Layout) -> tuple[list[Imported], list[DataError]]:
    """The files that could be read, and what is wrong with the others; DataError once they say that classes are counted another way."""
    found: list[Imported] = []
    broken: list[DataError] = []
    fitting, shifted = 0, {1: 0, -1: 0}
    for result in results:
        if isinstance(result, DataError):
            broken.append(result)
            continue
        found.append(result)
        fitting += result.fits
        if not result.fits and result.fits_shifted:
            shifted[result.fits_shifted] += 1
        if len(found) % ENOUGH == 0:
            _check_counting(fitting, shifted, layout)
    _check_counting(fitting, shifted, layout)
    return found, broken


def _check_counting(fitting: int, shifted: dict[int, int], layout: Layout) -> None:
    by = max(shifted, key=lambda by: shifted[by])
    if shifted[by] > fitting:
        first = layout.first + by
        raise DataError(
            f"the classes in {shifted[by]} files are those of the photo's tags if counted from {first}, in {fitting} from {layout.first}",
            f"--first-class {first}" if first in (0, 1) else "see that the files and the tags have the same classes in the same order",
        )


def _counts(found: Sequence[Imported], sources: Mapping[str, Path | None]) -> dict[str, int | float]:
    """What is recorded; of the photos that an interrupted import had read before, nothing is known any more but their number."""
    return {
        "files": sum(path is not None for path in sources.values()),
        "photos_without_file": sum(path is None for path in sources.values()),
        "photos_read_before": len(sources) - len(found),
        "photos_with_a_tag_missing": sum(one.missing > 0 for one in found),
        "tags_missing": sum(one.missing for one in found),
        "maps_extra": sum(one.extra for one in found),
        "maps_negative": sum(one.negative for one in found),
        "least": min((one.least for one in found), default=0.0),
    }


def _tell(counts: Mapping[str, int | float]) -> None:
    if counts["photos_without_file"]:
        console.warn(f"import-cams: {counts['photos_without_file']} photos have no CAM file; their labels will be ignore (255) everywhere")
    if counts["tags_missing"]:
        photos = counts["photos_with_a_tag_missing"]
        console.warn(f"import-cams: {counts['tags_missing']} tags of {photos} photos have no map; they get a map of zeros")
    if counts["maps_extra"]:
        console.log(f"import-cams: {counts['maps_extra']} maps of classes that are no tag of the photo were left out")
    if counts["maps_negative"]:
        console.log(f"import-cams: negative values of {counts['maps_negative']} maps became 0 (the least: {counts['least']:.3g})")
