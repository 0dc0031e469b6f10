"""The CAMs of a run in the layouts of other programs, so that their refinement can start from ours."""

from functools import partial
from pathlib import Path

from rcatool import console
from rcatool.data.labels import read_classes
from rcatool.data.manifest import Sample, read_manifest, split
from rcatool.export.place import new_folder
from rcatool.pool import parallel_map, worker_count
from rcatool.run import Run

STEP = "make-pseudo/cams"


def main(run: Run, out: Path, *, layout: str, force: bool = False) -> None:
    """Write OUT/<id>.npy (irn, psa) or OUT/<id>.npz of every photo with a CAM; StageError where the run's are not current."""
    config = run.read_config()
    run.require(STEP, config, by="export cams")
    prepared = run.dir("prepare")
    classes = read_classes(prepared / "classes.json")
    samples = read_manifest(prepared / "manifest.jsonl", num_classes=classes.num_classes)
    tagged = [sample for sample in split(samples, "train") + split(samples, "tune") if sample.classes]
    with new_folder(out, force=force, keep=(run.root,)) as folder, console.progress("export cams", total=len(tagged)) as bar:
        work = partial(_write, cams=run.dir(STEP), folder=folder, layout=layout)
        for _ in parallel_map(work, tagged, workers=worker_count(config.runtime.workers), bar=bar.advance):
            pass
    console.log(f"export: CAMs of {len(tagged)} photos in {out} ({layout})")


def _write(sample: Sample, *, cams: Path, folder: Path, layout: str) -> None:
    # Imported here: it loads torch, which the other exports do without.
    from rcatool.cam_writing import SUFFIXES, write_cam

    write_cam(cams / f"{sample.id}.npz", folder / f"{sample.id}{SUFFIXES[layout]}", size=sample.size, layout=layout)
