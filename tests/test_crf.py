"""The dense CRF: our use of pydensecrf against mean-field inference with explicit kernels, and by its properties."""

import importlib.util

import numpy as np
import pytest

from rcatool.errors import SetupError
from rcatool.refine.crf import CrfParams, crf_params, dense_crf, require_backend

needs_pydensecrf = pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None, reason="pydensecrf is not installed")


def exact(image: np.ndarray, probabilities: np.ndarray, params: CrfParams) -> np.ndarray:
    """Mean field with full kernels, self term included, each normalised by its row sums on both sides (spec 3.7)."""
    labels, height, width = probabilities.shape
    y, x = np.mgrid[:height, :width]
    place = np.stack([y, x], axis=-1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)
    kernels = []
    for features, weight in (
        (place / params.gaussian_sxy, params.gaussian_weight),
        (np.hstack([place / params.bilateral_sxy, colour / params.bilateral_srgb]), params.bilateral_weight),
    ):
        kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(axis=2))
        scale = kernel.sum(axis=1) ** -0.5
        kernels.append(weight * scale[:, None] * kernel * scale[None])
    unary = -np.log(np.clip(probabilities.reshape(labels, -1), 1e-5, 1))
    q = softmax(-unary)
    for _ in range(params.iterations):
        q = softmax(-unary + sum(q @ kernel for kernel in kernels))
    return q.reshape(labels, height, width)


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max(axis=0))
    return shifted / shifted.sum(axis=0)


def scene(labels: int = 3, size: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A photo of one colour per vertical stripe, and noisy probabilities that favour stripe l for label l."""
    rng = np.random.default_rng(seed)
    stripe = np.arange(size) * labels // size
    image = np.clip(60 * stripe[None, :, None] + 40 + rng.normal(0, 4, (size, size, 3)), 0, 255).astype(np.uint8)
    score = rng.random((labels, size, size)) + 0.5 * (stripe == np.arange(labels)[:, None])[:, None, :]
    return image, (score / score.sum(axis=0)).astype(np.float32)


PARAMS = CrfParams(5, gaussian_sxy=2, gaussian_weight=1, bilateral_sxy=10, bilateral_srgb=13, bilateral_weight=2)


@needs_pydensecrf
@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("params", [PARAMS, crf_params("seed", 10), crf_params("irn", 10)])
def test_agrees_with_exact_inference(params: CrfParams, labels: int) -> None:
    agreement, difference = [], []
    for seed in range(4):
        image, probabilities = scene(labels, seed=seed)
        expected, found = exact(image, probabilities, params), dense_crf(image, probabilities, params)
        assert (found.dtype, found.shape) == (np.float32, expected.shape)
        agreement.append((expected.argmax(axis=0) == found.argmax(axis=0)).mean())
        difference.append(np.abs(expected - found).mean())
        assert (found.argmax(axis=0) != probabilities.argmax(axis=0)).mean() > 0.05  # there was something to do
    assert np.mean(agreement) >= 0.995  # the library approximates its kernels
    assert np.mean(difference) <= 0.03


@needs_pydensecrf
def test_probabilities_sum_to_one() -> None:
    image, probabilities = scene()
    np.testing.assert_allclose(dense_crf(image, probabilities, PARAMS).sum(axis=0), 1, atol=1e-5)


@needs_pydensecrf
@pytest.mark.parametrize("params", [CrfParams(0, 3, 3, 80, 13, 10), CrfParams(5, 3, 0, 80, 13, 0)])
def test_without_iterations_or_weights_nothing_changes(params: CrfParams) -> None:
    image, probabilities = scene()
    np.testing.assert_allclose(dense_crf(image, probabilities, params), probabilities, atol=1e-5)


@needs_pydensecrf
def test_labels_may_be_permuted_and_scenes_turned() -> None:
    image, probabilities = scene()
    found = dense_crf(image, probabilities, PARAMS)
    np.testing.assert_allclose(dense_crf(image, probabilities[[2, 0, 1]], PARAMS), found[[2, 0, 1]], atol=1e-5)
    mirrored = dense_crf(image[:, ::-1], probabilities[:, :, ::-1], PARAMS)[:, :, ::-1]
    turned = dense_crf(image.transpose(1, 0, 2), probabilities.transpose(0, 2, 1), PARAMS).transpose(0, 2, 1)
    for other in (mirrored, turned):
        assert (other.argmax(axis=0) == found.argmax(axis=0)).mean() >= 0.99
        assert np.abs(other - found).mean() <= 0.02


@needs_pydensecrf
def test_height_and_width_are_not_confused() -> None:
    image, probabilities = scene(size=16)
    image, probabilities = image[:7], probabilities[:, :7]
    found = dense_crf(image, probabilities, PARAMS)
    assert found.shape == (3, 7, 16)
    assert (found.argmax(axis=0) == exact(image, probabilities, PARAMS).argmax(axis=0)).mean() >= 0.98


@needs_pydensecrf
def test_a_constant_scene_stays_constant() -> None:
    probabilities = np.broadcast_to(np.array([0.3, 0.7], np.float32)[:, None, None], (2, 12, 12))
    found = dense_crf(np.full((12, 12, 3), 90, np.uint8), probabilities, PARAMS)
    assert (found.argmax(axis=0) == 1).all()
    assert np.ptp(found[1]) < 0.05


@needs_pydensecrf
def test_a_lone_pixel_is_removed_and_an_edge_is_kept() -> None:
    image = np.full((12, 12, 3), 200, np.uint8)
    image[:, :6] = 20
    probabilities = np.full((2, 12, 12), 0.3, np.float32)
    probabilities[0, :, :6] = probabilities[1, :, 6:] = 0.7
    probabilities[:, 5, 2] = 0.3, 0.7
    label = dense_crf(image, probabilities, crf_params("seed", 10)).argmax(axis=0)
    assert label.tolist() == [[0] * 6 + [1] * 6] * 12


@needs_pydensecrf
def test_a_label_of_probability_zero_stays_out() -> None:
    image, probabilities = scene(2)
    three = np.concatenate([probabilities, np.zeros_like(probabilities[:1])])
    found = dense_crf(image, three, crf_params("seed", 10))
    assert found[2].max() < 1e-3
    np.testing.assert_allclose(found[:2], dense_crf(image, probabilities, crf_params("seed", 10)), atol=1e-3)


def test_one_label_is_certain_everywhere() -> None:
    assert dense_crf(np.zeros((4, 5, 3), np.uint8), np.full((1, 4, 5), 0.2, np.float32), PARAMS).tolist() == np.ones((1, 4, 5)).tolist()


@needs_pydensecrf
def test_inputs_are_left_as_they_were() -> None:
    image, probabilities = scene()
    before = image.copy(), probabilities.copy()
    dense_crf(image, probabilities, PARAMS)
    assert np.array_equal(image, before[0])
    assert np.array_equal(probabilities, before[1])


def test_a_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pseudo\.crf_backend: auto needs the library pydensecrf") as caught:
        require_backend("auto")
    assert "--set pseudo.crf=none" in str(caught.value.hint)


def test_named_constants() -> None:
    assert crf_params("seed", 10) == CrfParams(10, 3, 3, 80, 13, 10)
    assert crf_params("irn", 7) == CrfParams(7, 3, 3, 50, 5, 10)
