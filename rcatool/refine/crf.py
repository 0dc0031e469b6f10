"""Fully connected CRF with Gaussian edge potentials: mean-field inference at full image size (spec 3.7).

One function, `dense_crf`, and three programs behind it that give the same labels: `scipy` (our lattice on the CPU), `torch` (the same on
a GPU, several images at once: `crf_torch`) and `pydensecrf` (the library that the field uses, an extra).
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rcatool.errors import SetupError
from rcatool.refine.lattice import Lattice, make_lattice

TOGETHER = 4  # labels from which one product for all is faster than one for each (measured; fewer make poor use of the processor)
CACHED_PIXELS = 2**20  # lattices of larger images are not kept: 24 bytes a pixel


@dataclass(frozen=True)
class CrfParams:
    """Mean-field iterations and the two kernels: standard deviations in pixels and grey levels, Potts weights >= 0."""

    iterations: int
    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float


# Constants of the published pipelines: spec 2.4 and 3.5 (seed), 3.6 (irn), 3.4 (deeplab).
KERNELS: dict[str, tuple[float, float, float, float, float]] = {
    "seed": (3, 3, 80, 13, 10),
    "irn": (3, 3, 50, 5, 10),
    "deeplab": (1, 3, 67, 3, 4),
}


def crf_params(name: str, iterations: int) -> CrfParams:
    """The constants of `seed` and `irn` (pseudo labels, `pseudo.crf`) or `deeplab` (a network's predictions, `eval.crf`)."""
    return CrfParams(iterations, *KERNELS[name])


def choose_backend(backend: str, device: str) -> str:
    """The program for `pseudo.crf_backend` on a device type (`cpu`, `cuda`): scipy, torch or pydensecrf.

    `auto` takes the fastest, which is always one of ours. Raises `SetupError` if pydensecrf is asked for and not installed.
    """
    if backend == "auto":
        return "scipy" if device == "cpu" else "torch"
    if backend == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise SetupError(
            "pseudo.crf_backend: pydensecrf is not installed",
            hint="pip install 'rcatool[crf]' (needs a C++ compiler), or the program that needs no library: --set pseudo.crf_backend=auto",
        )
    return backend


def dense_crf(
    image: np.ndarray, probabilities: np.ndarray, params: CrfParams, *, backend: str = "scipy", device: str = "cpu"
) -> np.ndarray:
    """Mean-field inference: image (H, W, 3) uint8 RGB, probabilities (L, H, W) summing to 1 -> refined ones, float32.

    Unary: -log of the probabilities, clipped at 1e-5. Labels are what the caller passes: restricting them to background
    and tags is exact, since a label of probability 0 stays out, and much faster. Scores of a network go in as they leave its softmax.
    """
    if len(probabilities) == 1:
        return np.ones_like(probabilities, dtype=np.float32)
    if backend == "pydensecrf":
        return _pydensecrf(image, probabilities, params)
    if backend == "torch":
        # Imported here: torch takes seconds to load, and processes that make labels on the CPU do without it.
        from rcatool.refine.crf_torch import dense_crf_batch

        return dense_crf_batch([image], [probabilities], params, device=device)[0]
    return _scipy(image, probabilities, params)


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Negative unary energies, float32."""
    return np.log(np.clip(probabilities, 1e-5, 1.0)).astype(np.float32)


def _scipy(image: np.ndarray, probabilities: np.ndarray, params: CrfParams) -> np.ndarray:
    """Mean field with the scores of labels 1 ... L - 1 relative to label 0: probabilities sum to 1, so one label needs no filtering."""
    labels, height, width = probabilities.shape
    scores = log_probabilities(probabilities).reshape(labels, -1)
    unary = scores[1:] - scores[0]
    kernels = _kernels(image, params)
    # What label 0 receives is what all labels together receive, which never changes, less what the others do.
    fixed = unary - sum(kernel.filter(np.ones(height * width, np.float32)) for kernel in kernels)
    found = np.empty((labels, height * width), np.float32)
    _softmax(unary, out=found)
    for _ in range(params.iterations if kernels else 0):
        received = _receive(kernels, found[1:])
        received += received.sum(axis=0)
        received += fixed
        _softmax(received, out=found)
    return found.reshape(labels, height, width)


def _receive(kernels: list[Lattice], found: np.ndarray) -> np.ndarray:
    """What labels with probabilities found (L, N) receive through all kernels, (L, N)."""
    if len(found) < TOGETHER:
        return np.stack([sum(kernel.filter(one) for kernel in kernels) for one in found])
    by_pixel = np.ascontiguousarray(found.T)
    return np.ascontiguousarray(sum(kernel.filter(by_pixel) for kernel in kernels).T)


def _softmax(scores: np.ndarray, *, out: np.ndarray) -> None:
    """Probabilities (L, N) of scores (L - 1, N) relative to that of a further label, which comes first."""
    out[0] = 0
    out[1:] = scores
    out -= out.max(axis=0)
    np.exp(out, out=out)
    out /= out.sum(axis=0)


def _kernels(image: np.ndarray, params: CrfParams) -> list[Lattice]:
    """The kernels of weight > 0, normalised and weighted."""
    height, width, _ = image.shape
    kernels = []
    if params.gaussian_weight > 0:
        make = _gaussian if height * width <= CACHED_PIXELS else _gaussian.__wrapped__
        kernels.append(make(height, width, params.gaussian_sxy, params.gaussian_weight))
    if params.bilateral_weight > 0:
        colours = [image[..., channel].ravel() * np.float32(1 / params.bilateral_srgb) for channel in range(3)]
        lattice = make_lattice([*_positions(height, width, params.bilateral_sxy), *colours])
        lattice.normalise(params.bilateral_weight)
        kernels.append(lattice)
    return kernels


@lru_cache(maxsize=4)  # it depends on the size alone, and most photos are of a few sizes
def _gaussian(height: int, width: int, sxy: float, weight: float) -> Lattice:
    lattice = make_lattice(_positions(height, width, sxy))
    lattice.normalise(weight)
    return lattice


def _positions(height: int, width: int, sxy: float) -> list[np.ndarray]:
    """x and y (H * W,) of all pixels, in standard deviations."""
    x, y = (np.arange(side, dtype=np.float32) / np.float32(sxy) for side in (width, height))
    return [np.tile(x, height), np.repeat(y, width)]


def _pydensecrf(image: np.ndarray, probabilities: np.ndarray, params: CrfParams) -> np.ndarray:
    # Imported here: the library is an extra, and only this function needs it.
    from pydensecrf.densecrf import DenseCRF2D

    labels, height, width = probabilities.shape
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(-log_probabilities(probabilities).reshape(labels, -1)))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=np.ascontiguousarray(image), compat=params.bilateral_weight
    )
    return np.asarray(crf.inference(params.iterations), np.float32).reshape(labels, height, width)
