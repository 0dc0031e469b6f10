"""Fully connected CRF with Gaussian edge potentials, at full image size, over background and the image's tags (spec 3.7)."""

import importlib.util
from dataclasses import dataclass

import numpy as np

from rcatool.errors import SetupError


@dataclass(frozen=True)
class CrfParams:
    """Mean-field iterations and the two kernels: standard deviations in pixels and grey levels, Potts weights."""

    iterations: int
    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float


# Constants of the published pipelines: spec 2.4 and 3.5 (seed), 3.6 (irn).
KERNELS: dict[str, tuple[float, float, float, float, float]] = {
    "seed": (3, 3, 80, 13, 10),
    "irn": (3, 3, 50, 5, 10),
}


def crf_params(name: str, iterations: int) -> CrfParams:
    """The constants named by `pseudo.crf`."""
    return CrfParams(iterations, *KERNELS[name])


def require_backend(backend: str) -> str:
    """The CRF library to use for `pseudo.crf_backend`; raises `SetupError` if there is none on this machine."""
    if importlib.util.find_spec("pydensecrf") is None:
        raise SetupError(
            f"pseudo.crf_backend: {backend} needs the library pydensecrf, which is not installed",
            hint="pip install 'rcatool[crf]' (needs a C++ compiler), or go without: --set pseudo.crf=none",
        )
    return "pydensecrf"


def dense_crf(image: np.ndarray, probabilities: np.ndarray, params: CrfParams) -> np.ndarray:
    """Mean-field inference: image (H, W, 3) uint8 RGB, probabilities (L, H, W) summing to 1 -> refined ones, float32.

    Unary: -log of the probabilities, clipped at 1e-5. Labels are what the caller passes: restricting them to background
    and tags is exact, since a label of probability 0 stays out, and much faster.
    """
    # Imported here: the library is an extra, and only this function needs it.
    from pydensecrf.densecrf import DenseCRF2D

    labels, height, width = probabilities.shape
    if labels == 1:
        return np.ones_like(probabilities, dtype=np.float32)
    crf = DenseCRF2D(width, height, labels)
    unary = -np.log(np.clip(probabilities, 1e-5, 1.0)).astype(np.float32)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1)))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=np.ascontiguousarray(image), compat=params.bilateral_weight
    )
    return np.asarray(crf.inference(params.iterations), np.float32).reshape(labels, height, width)
