"""How many photos the dense CRF refines per second, beside pydensecrf, and on how many pixels they agree: one line of JSON.

    python benchmarks/crf_rate.py [--voc DIR] [--cams DIR] [--crf seed] [--photos 64] [--processes 2] [--repeat 3] [--out FILE]
    python benchmarks/crf_rate.py --device cuda

DIR holds VOC2012/{JPEGImages,ImageSets,tags.txt} (default: RCA_VOC_PART). Maps of the photos' tags come from --cams (files of
make-pseudo/cams), else they are drawn: the masks, coarsely sampled, times and plus smooth noise. Every figure is of whole images,
construction of the lattice included, decoding and file writing not.

On the CPU each process has one thread and its own share of the photos. The programs take turns every few photos, all processes at
once, so that both see the same machine; a turn lasts until the slowest process is done. With CUDA the photos go in batches through one
process, against one process of pydensecrf. For the agreement each photo gets as many labels as named: its tags and, beyond, noise.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded, here and in the processes started below

import argparse
import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import NamedTuple

import numpy as np

from rcatool.cams import load_full_cam, resize
from rcatool.data.labels import VOC_CLASSES, read_mask
from rcatool.data.photos import read_image
from rcatool.files import atomic_write
from rcatool.pseudo import unary_probabilities
from rcatool.refine.crf import KERNELS, CrfParams, crf_params, dense_crf

TURN = 8  # photos of a process before it is the other program's turn
LABELS = (2, 5, 21)
BG_THRESHOLD = 0.3
Item = tuple[np.ndarray, np.ndarray]  # a photo and the probabilities that the CRF starts from


class Source(NamedTuple):
    """Where photos and maps come from."""

    voc: Path
    cams: Path | None

    def names(self, count: int) -> list[str]:
        """Names of `count` photos, spread over the training list."""
        names = (self.voc / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
        return [names[index] for index in np.linspace(0, len(names) - 1, count).astype(int)]

    def item(self, name: str, labels: int | None = None) -> Item:
        """A photo with background and its tags, or with `labels` labels."""
        image = read_image(self.voc / "JPEGImages" / f"{name}.jpg")
        maps = self._drawn(name, image.shape[:2]) if self.cams is None else self._stored(name, image.shape[:2])
        if labels is not None:
            noise = smooth_noise(labels, image.shape[:2], seed=[1, *name.encode()])
            maps = np.concatenate([maps, noise])[: labels - 1]
        background = np.full((1, *image.shape[:2]), BG_THRESHOLD, np.float32)
        return image, unary_probabilities(np.concatenate([background, maps]), "seed")

    def _stored(self, name: str, size: tuple[int, int]) -> np.ndarray:
        assert self.cams is not None
        return load_full_cam(self.cams / f"{name}.npz", size=size)[1]

    def _drawn(self, name: str, size: tuple[int, int]) -> np.ndarray:
        tags = next(line.split()[1:] for line in (self.voc / "tags.txt").read_text().splitlines() if line.split()[0] == name)
        mask = read_mask(self.voc / "SegmentationClassAug" / f"{name}.png", num_classes=20)
        coarse = np.stack([(mask == VOC_CLASSES.index(tag) + 1)[8::16, 8::16] for tag in tags]).astype(np.float32)
        noise = smooth_noise(2 * len(tags), size, seed=[0, *name.encode()])
        return np.clip(resize(coarse, *size) * (0.4 + 0.6 * noise[: len(tags)]) + 0.3 * noise[len(tags) :], 0, 1)


def smooth_noise(count: int, size: tuple[int, int], seed: Sequence[int]) -> np.ndarray:
    """Fields (count, H, W) float32 in [0, 1] that change over some 40 pixels."""
    coarse = np.random.default_rng(seed).random((count, size[0] // 40 + 2, size[1] // 40 + 2), np.float32)
    return resize(coarse, *size)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, default=os.environ.get("RCA_VOC_PART"))
    parser.add_argument("--cams", type=Path)
    parser.add_argument("--crf", choices=KERNELS, default="seed")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--agree", type=int, default=8, help="photos for each agreement; 0: none")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.voc is None or not (options.voc / "VOC2012" / "tags.txt").is_file():
        parser.error(f"no photos in {options.voc}: name a folder with VOC2012/tags.txt with --voc or RCA_VOC_PART")
    if importlib.util.find_spec("pydensecrf") is None:
        parser.error("pydensecrf is not installed: make crf")
    source, params = Source(options.voc / "VOC2012", options.cams), crf_params(options.crf, 10)
    names = source.names(options.photos)
    if options.device == "cuda":
        rates = rates_on_device([source.item(name) for name in names], params, options.repeat)
    else:
        rates = rates_on_cpu(source, names, params, (options.processes, options.repeat))
    ours = "torch" if options.device == "cuda" else "scipy"
    agreement = {str(labels): agree(source, names[: options.agree], labels, (params, ours, options.device)) for labels in LABELS}
    result = {
        "crf": options.crf, "photos": len(names), "maps": "stored" if options.cams else "drawn", "device": options.device,
        "processes": 1 if options.device == "cuda" else options.processes, "unit": "images per second", **rates,
        "agreement_percent_by_labels": agreement if options.agree else {},
    }  # fmt: skip
    text = json.dumps(result)
    print(text)
    if options.out is not None:
        atomic_write(options.out, f"{text}\n")


def rates_on_cpu(source: Source, names: list[str], params: CrfParams, how: tuple[int, int]) -> dict[str, object]:
    """Images per second of both programs with how = (processes, repeats), by wall time and, all processes together, by CPU time."""
    processes, repeat = how
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    shares = [names[number::processes] for number in range(processes)]
    workers = [context.Process(target=work, args=(source, share, params, repeat, barrier, results)) for share in shares]
    for worker in workers:
        worker.start()
    turns = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    found: dict[str, object] = {}
    for program in ("scipy", "pydensecrf"):
        wall = [sum(max(turn) for turn in zip(*(own[program][r] for own, _ in turns), strict=True)) for r in range(repeat)]
        found[program] = [round(len(names) / seconds, 2) for seconds in wall]
        found[f"{program}_cpu_seconds_per_image"] = round(sum(own[program] for _, own in turns) / len(names) / repeat, 4)
    return {**found, **_ratios(found, "scipy")}


def work(source: Source, names: list[str], params: CrfParams, repeat: int, barrier: Barrier, results: "Queue[object]") -> None:
    """In a process: load a share of the photos, then refine it by turns; puts wall seconds by program, repeat and turn, and CPU seconds."""
    items = [source.item(name) for name in names]
    turns = [items[start : start + TURN] for start in range(0, len(items), TURN)]
    wall = {program: [[0.0] * len(turns) for _ in range(repeat)] for program in ("scipy", "pydensecrf")}
    cpu = dict.fromkeys(wall, 0.0)
    for program in wall:
        dense_crf(*items[0], params, backend=program)  # loads what it needs
    for r in range(repeat):
        for number, turn in enumerate(turns):
            for program in wall:
                barrier.wait()
                start, start_cpu = time.perf_counter(), time.process_time()
                for image, probabilities in turn:
                    dense_crf(image, probabilities, params, backend=program)
                wall[program][r][number] = time.perf_counter() - start
                cpu[program] += time.process_time() - start_cpu
    results.put((wall, cpu))


def rates_on_device(items: list[Item], params: CrfParams, repeat: int) -> dict[str, object]:
    """Images per second of torch on the GPU, in batches of several sizes, and of one process of pydensecrf."""
    from rcatool.refine.crf_torch import dense_crf_batch

    def torch_in(size: int) -> Callable[[], object]:
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        return lambda: [dense_crf_batch([i for i, _ in part], [p for _, p in part], params, device="cuda") for part in parts]

    programs: dict[str, Callable[[], object]] = {f"torch_batch_{size}": torch_in(size) for size in (1, 4, 16, 32)}
    programs["pydensecrf"] = lambda: [dense_crf(image, given, params, backend="pydensecrf") for image, given in items]
    for run in programs.values():
        run()
    found: dict[str, object] = {program: [] for program in programs}
    for _ in range(repeat):
        for program, run in programs.items():
            start = time.perf_counter()
            run()
            found[program].append(round(len(items) / (time.perf_counter() - start), 2))  # type: ignore[attr-defined]
    return {**found, **_ratios(found, max((name for name in programs if name != "pydensecrf"), key=lambda name: max(found[name])))}  # type: ignore[call-overload]


def _ratios(found: dict[str, object], ours: str) -> dict[str, object]:
    pairs = zip(found[ours], found["pydensecrf"], strict=True)  # type: ignore[call-overload]
    return {"ratio": [round(mine / theirs, 2) for mine, theirs in pairs]}


def agree(source: Source, names: list[str], labels: int, program: tuple[CrfParams, str, str]) -> float:
    """Percent of the pixels that get the same label from both programs."""
    params, backend, device = program
    same = total = 0
    for name in names:
        item = source.item(name, labels)
        expected = dense_crf(*item, params, backend="pydensecrf").argmax(axis=0)
        same += int((dense_crf(*item, params, backend=backend, device=device).argmax(axis=0) == expected).sum())
        total += expected.size
    return round(100 * same / max(total, 1), 4)


if __name__ == "__main__":
    main()
