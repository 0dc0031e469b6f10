"""The dense CRF: our programs against mean-field inference with explicit kernels, against pydensecrf, and by its properties."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from rcatool.data.photos import read_image
from rcatool.errors import SetupError
from rcatool.refine import crf as crf_module
from rcatool.refine import crf_torch, lattice
from rcatool.refine.crf import CrfParams, choose_backend, crf_params, dense_crf
from rcatool.refine.crf_torch import dense_crf_batch

needs_pydensecrf = pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None, reason="pydensecrf is not installed")
BACKENDS = ["scipy", "torch", pytest.param("pydensecrf", marks=needs_pydensecrf)]

PARAMS = CrfParams(5, gaussian_sxy=2, gaussian_weight=1, bilateral_sxy=10, bilateral_srgb=13, bilateral_weight=2)
SEED = crf_params("seed", 10)


@pytest.fixture(params=BACKENDS)
def crf(request: pytest.FixtureRequest) -> Callable[..., np.ndarray]:
    """`dense_crf` by one of the programs."""
    return lambda *arguments: dense_crf(*arguments, backend=request.param)


def exact(image: np.ndarray, probabilities: np.ndarray, params: CrfParams) -> np.ndarray:
    """Mean field with full kernels, self term included, each normalised by its row sums on both sides (spec 3.7)."""
    labels, height, width = probabilities.shape
    kernels = []
    for features, weight in (
        (pixel_features(image, params.gaussian_sxy), params.gaussian_weight),
        (pixel_features(image, params.bilateral_sxy, params.bilateral_srgb), params.bilateral_weight),
    ):
        kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(axis=2))
        scale = kernel.sum(axis=1) ** -0.5
        kernels.append(weight * scale[:, None] * kernel * scale[None])
    unary = -np.log(np.clip(probabilities.reshape(labels, -1), 1e-5, 1))
    q = softmax(-unary)
    for _ in range(params.iterations):
        q = softmax(-unary + sum(q @ kernel for kernel in kernels))
    return q.reshape(labels, height, width)


def pixel_features(image: np.ndarray, sxy: float, srgb: float | None = None) -> np.ndarray:
    """(H * W, 2 or 5): x, y and colours in standard deviations."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    place = np.stack([x, y], axis=-1).reshape(-1, 2) / sxy
    return place if srgb is None else np.hstack([place, image.reshape(-1, 3) / srgb])


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max(axis=0))
    return shifted / shifted.sum(axis=0)


def scene(labels: int = 3, size: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A photo of one colour per vertical stripe, and noisy probabilities that favour stripe l for label l."""
    rng = np.random.default_rng(seed)
    stripe = np.arange(size) * labels // size
    colours = np.clip(60 * stripe, 0, 200) if labels <= 4 else rng.integers(20, 200, labels)[stripe]
    image = np.clip(colours[None, :, None] + 40 + rng.normal(0, 4, (size, size, 3)), 0, 255).astype(np.uint8)
    score = rng.random((labels, size, size)) + 0.5 * (stripe == np.arange(labels)[:, None])[:, None, :]
    return image, (score / score.sum(axis=0)).astype(np.float32)


def same_label(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the pixels with the same best label."""
    return float((one.argmax(axis=0) == other.argmax(axis=0)).mean())


# ---- the lattice by itself


def slow_lattice_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Splat, blur and slice with dictionaries, in the D + 1 coordinates of the literature and double precision."""
    points, axes = features.shape
    scaled = features * np.sqrt(2 / 3) * (axes + 1) / np.sqrt(np.arange(1, axes + 1) * np.arange(2, axes + 2))
    raised = np.stack([scaled[:, i:].sum(axis=1) - (i * scaled[:, i - 1] if i else 0) for i in range(axes + 1)], axis=1)
    simplices = []
    for point in raised:
        zero = (axes + 1) * np.round(point / (axes + 1)).astype(int)
        rank = np.argsort(np.argsort(-(point - zero), kind="stable"), kind="stable") + zero.sum() // (axes + 1)
        zero += (axes + 1) * ((rank < 0).astype(int) - (rank > axes))
        rank = rank % (axes + 1)
        share = np.zeros(axes + 2)
        for i in range(axes + 1):
            share[axes - rank[i]] += (point[i] - zero[i]) / (axes + 1)
            share[axes - rank[i] + 1] -= (point[i] - zero[i]) / (axes + 1)
        share[0] += 1 + share[axes + 1]
        corners = [tuple(zero + np.where(rank <= axes - k, k, k - axes - 1)) for k in range(axes + 1)]
        simplices.append(list(zip(corners, share, strict=False)))
    grid: dict[tuple[int, ...], float] = {}
    for simplex, value in zip(simplices, values, strict=True):
        for corner, share in simplex:
            grid[corner] = grid.get(corner, 0) + share * value
    for axis in range(axes + 1):
        step = np.ones(axes + 1, int) - (axes + 1) * (np.arange(axes + 1) == axis)
        grid = {
            key: value + 0.5 * sum(grid.get(tuple(np.add(key, sign * step)), 0) for sign in (1, -1)) for key, value in grid.items()
        }
    return np.array([sum(share * grid[corner] for corner, share in simplex) for simplex in simplices])


@pytest.mark.parametrize("axes", [2, 5])
def test_the_lattice_is_that_of_the_literature(axes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(axes)
    features = rng.uniform(0, 4, (90, axes)).astype(np.float32)
    values = rng.random(90).astype(np.float32)
    expected = slow_lattice_filter(features.astype(float), values)
    monkeypatch.setattr(lattice, "BLOCK", 32)  # several blocks, the last one shorter
    found = lattice.make_lattice(features.T)
    np.testing.assert_allclose(found.filter(values), expected, rtol=2e-4)
    monkeypatch.setattr(lattice, "TABLE_CELLS", 80)  # too many cells for one table: pages of pages
    np.testing.assert_array_equal(lattice.make_lattice(features.T).filter(values), found.filter(values))


@pytest.mark.parametrize("axes", [2, 5])
def test_weights_of_a_simplex_sum_to_one_and_rebuild_the_point(axes: int) -> None:
    features = np.random.default_rng(0).uniform(0, 30, (axes, 500)).astype(np.float32)
    place = lattice.lattice_coordinates(features)
    steps = 1000 ** np.arange(axes, dtype=np.int64)
    keys, weights = lattice.simplices(place, place.astype(np.int32), steps)
    corners = keys[..., None] // steps % 1000  # back to coordinates
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((weights[..., None] * corners).sum(axis=1), place.T, atol=2e-4)


@pytest.mark.parametrize(("axes", "mean", "most"), [(2, 0.02, 0.1), (5, 0.03, 0.15)])
def test_the_lattice_approximates_the_gaussian(axes: int, mean: float, most: float) -> None:
    rng = np.random.default_rng(1)
    features = rng.uniform(0, 3, (axes, 1200)).astype(np.float32)
    values = np.stack([features[0] > 1.5, features[1] > 2]).astype(np.float32)
    kernel = np.exp(-0.5 * ((features.T[:, None].astype(float) - features.T[None]) ** 2).sum(axis=2))
    made = lattice.make_lattice(features)
    sums = made.filter(np.ones(1200, np.float32))
    for value in values:
        difference = np.abs(made.filter(value) / sums - kernel @ value / kernel.sum(axis=1))
        assert (difference.mean() < mean, difference.max() < most) == (True, True)


# ---- mean field


def test_mean_field_is_exact_where_the_lattice_is(crf: Callable[..., np.ndarray]) -> None:
    # So far apart that no pixel sees another: the kernels are the identity, so each iteration adds both weights times q.
    image = np.full((5, 6, 3), 7, np.uint8)
    _, probabilities = scene(size=6)
    params = CrfParams(4, gaussian_sxy=0.02, gaussian_weight=0.7, bilateral_sxy=0.02, bilateral_srgb=13, bilateral_weight=1.1)
    expected = exact(image, probabilities[:, :5], params)
    np.testing.assert_allclose(crf(image, probabilities[:, :5], params), expected, atol=1e-5)


def test_mean_field_is_exact_where_all_pixels_are_one_point(crf: Callable[..., np.ndarray]) -> None:
    # So close that all pixels are as one: each receives the mean over all, times the weights.
    image = np.full((8, 8, 3), 90, np.uint8)
    _, probabilities = scene(size=8)
    params = CrfParams(4, gaussian_sxy=3e4, gaussian_weight=0.7, bilateral_sxy=3e4, bilateral_srgb=3e4, bilateral_weight=1.1)
    np.testing.assert_allclose(crf(image, probabilities, params), exact(image, probabilities, params), atol=2e-3)


def exact_lattice(features: Sequence[np.ndarray]) -> lattice.Lattice:
    """In place of a lattice's approximation: every point is a lattice point, and one blur is the kernel itself."""
    points = np.stack([np.asarray(feature, float) for feature in features], axis=1)
    kernel = np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(axis=2))
    around = np.pad(kernel, ((1, 0), (1, 0)))  # point 0 stands for those that are missing
    return lattice.Lattice(csr_array(np.eye(len(kernel), len(around), 1, np.float32)), (csr_array(around.astype(np.float32)),))


@dataclass
class ExactTorchLattice:
    """The same for torch; `normalised` is the program's own."""

    kernel: torch.Tensor
    weights: torch.Tensor
    normalised = crf_torch.TorchLattice.normalised

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        return self.weights * (self.kernel @ (self.weights * values))


def exact_torch_lattice(features: torch.Tensor, owner: torch.Tensor) -> ExactTorchLattice:
    assert not owner.any()
    kernel = (-0.5 * (features.double()[:, None] - features.double()[None]).square().sum(dim=2)).exp()
    return ExactTorchLattice(kernel.float(), torch.ones(len(kernel), 1))


@pytest.mark.parametrize("backend", ["scipy", "torch"])
@pytest.mark.parametrize("labels", [2, 3, 6])  # labels are filtered one by one, or all at once from five on
@pytest.mark.parametrize("params", [PARAMS, SEED, crf_params("irn", 10), crf_params("deeplab", 4)])
def test_mean_field_with_exact_kernels_is_exact(
    backend: str, labels: int, params: CrfParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is not the lattice: unary, kernels' features, their normalisation with the pixel itself, weights, iterations."""
    monkeypatch.setattr(crf_module, "make_lattice", exact_lattice)
    monkeypatch.setattr(crf_module, "_gaussian", crf_module._gaussian.__wrapped__)  # which would keep these for other tests
    monkeypatch.setattr(crf_torch, "make_lattice", exact_torch_lattice)
    image, probabilities = scene(labels, size=8, seed=labels)
    image, probabilities = image[:7], probabilities[:, :7]
    expected = exact(image, probabilities, params)
    assert np.abs(expected - probabilities).max() > 0.1  # there was something to do
    np.testing.assert_allclose(dense_crf(image, probabilities, params, backend=backend), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("params", [PARAMS, SEED, crf_params("irn", 10)])
def test_agrees_with_exact_inference(crf: Callable[..., np.ndarray], params: CrfParams, labels: int) -> None:
    agreement, difference = [], []
    for seed in range(4):
        image, probabilities = scene(labels, seed=seed)
        expected, found = exact(image, probabilities, params), crf(image, probabilities, params)
        assert (found.dtype, found.shape) == (np.float32, expected.shape)
        agreement.append(same_label(expected, found))
        difference.append(np.abs(expected - found).mean())
        assert same_label(found, probabilities) < 0.95  # there was something to do
    assert np.mean(agreement) >= 0.995  # the lattice approximates the kernels
    assert np.mean(difference) <= 0.03


@pytest.mark.parametrize("labels", [2, 5])
def test_agrees_with_exact_inference_at_32_pixels(crf: Callable[..., np.ndarray], labels: int) -> None:
    image, probabilities = scene(labels, size=32, seed=3)
    assert same_label(crf(image, probabilities, SEED), exact(image, probabilities, SEED)) >= 0.99


@needs_pydensecrf
@pytest.mark.parametrize("name", ["seed", "irn", "deeplab"])
@pytest.mark.parametrize("labels", [2, 5, 21])
def test_the_same_labels_as_pydensecrf(name: str, labels: int) -> None:
    image, probabilities = scene(labels, size=48, seed=labels)
    image, params = image[:30], crf_params(name, 10)
    probabilities = np.ascontiguousarray(probabilities[:, :30])
    expected = dense_crf(image, probabilities, params, backend="pydensecrf")
    for backend in ("scipy", "torch"):
        found = dense_crf(image, probabilities, params, backend=backend)
        assert same_label(found, expected) >= 0.995
        assert np.abs(found - expected).mean() <= 1e-3


@needs_pydensecrf
@pytest.mark.parametrize("labels", [2, 5, 21])
def test_the_same_labels_as_pydensecrf_on_photos(voc_part: Path, labels: int) -> None:
    rng = np.random.default_rng(labels)
    same = []
    for name in ("2007_000032", "2007_000256", "2008_005338"):
        image = read_image(voc_part / "VOC2012" / "JPEGImages" / f"{name}.jpg")[:: 1 + labels // 20, :: 1 + labels // 20]
        height, width = image.shape[:2]
        score = np.kron(rng.random((labels, 9, 9)), np.ones((60, 60)))[:, :height, :width] ** 3
        probabilities = (score / score.sum(axis=0)).astype(np.float32)
        expected = dense_crf(image, probabilities, SEED, backend="pydensecrf")
        same.append(same_label(dense_crf(image, probabilities, SEED), expected))
        assert same_label(probabilities, expected) < 0.99  # there was something to do
    assert min(same) >= 0.995


# ---- properties


def test_probabilities_sum_to_one(crf: Callable[..., np.ndarray]) -> None:
    np.testing.assert_allclose(crf(*scene(), PARAMS).sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("params", [CrfParams(0, 3, 3, 80, 13, 10), CrfParams(5, 3, 0, 80, 13, 0)])
def test_without_iterations_or_weights_nothing_changes(crf: Callable[..., np.ndarray], params: CrfParams) -> None:
    image, probabilities = scene()
    np.testing.assert_allclose(crf(image, probabilities, params), probabilities, atol=1e-5)


@pytest.mark.parametrize("changes", [{"gaussian_weight": 0}, {"bilateral_weight": 0}])
def test_one_kernel_alone(crf: Callable[..., np.ndarray], changes: dict[str, float]) -> None:
    image, probabilities = scene()
    params = CrfParams(**{**vars(PARAMS), **changes})
    assert same_label(crf(image, probabilities, params), exact(image, probabilities, params)) >= 0.99


def test_labels_may_be_permuted_and_scenes_turned(crf: Callable[..., np.ndarray]) -> None:
    image, probabilities = scene()
    found = crf(image, probabilities, PARAMS)
    np.testing.assert_allclose(crf(image, probabilities[[2, 0, 1]], PARAMS), found[[2, 0, 1]], atol=1e-5)
    mirrored = crf(image[:, ::-1], probabilities[:, :, ::-1], PARAMS)[:, :, ::-1]
    upside_down = crf(image[::-1], probabilities[:, ::-1], PARAMS)[:, ::-1]
    turned = crf(image.transpose(1, 0, 2), probabilities.transpose(0, 2, 1), PARAMS).transpose(0, 2, 1)
    for other in (mirrored, upside_down, turned):
        assert same_label(other, found) >= 0.99
        assert np.abs(other - found).mean() <= 0.02


def test_height_and_width_are_not_confused(crf: Callable[..., np.ndarray]) -> None:
    image, probabilities = scene(size=16)
    image, probabilities = image[:7], probabilities[:, :7]
    found = crf(image, probabilities, PARAMS)
    assert found.shape == (3, 7, 16)
    assert same_label(found, exact(image, probabilities, PARAMS)) >= 0.98


def test_a_constant_scene_stays_constant(crf: Callable[..., np.ndarray]) -> None:
    probabilities = np.broadcast_to(np.array([0.3, 0.7], np.float32)[:, None, None], (2, 12, 12))
    found = crf(np.full((12, 12, 3), 90, np.uint8), probabilities, PARAMS)
    assert (found.argmax(axis=0) == 1).all()
    assert np.ptp(found[1]) < 0.05


def test_a_lone_pixel_is_removed_and_an_edge_is_kept(crf: Callable[..., np.ndarray]) -> None:
    image = np.full((12, 12, 3), 200, np.uint8)
    image[:, :6] = 20
    probabilities = np.full((2, 12, 12), 0.3, np.float32)
    probabilities[0, :, :6] = probabilities[1, :, 6:] = 0.7
    probabilities[:, 5, 2] = 0.3, 0.7
    assert crf(image, probabilities, SEED).argmax(axis=0).tolist() == [[0] * 6 + [1] * 6] * 12


def test_colours_far_apart_in_standard_deviations_do_not_matter(crf: Callable[..., np.ndarray]) -> None:
    image, probabilities = scene()
    colourless = CrfParams(5, 3, 0, bilateral_sxy=4, bilateral_srgb=1e6, bilateral_weight=2)
    gaussian = CrfParams(5, gaussian_sxy=4, gaussian_weight=2, bilateral_sxy=80, bilateral_srgb=13, bilateral_weight=0)
    one, other = crf(image, probabilities, colourless), crf(image, probabilities, gaussian)
    assert same_label(one, other) >= 0.98
    assert np.abs(one - other).mean() <= 0.03


def test_a_label_of_probability_zero_stays_out(crf: Callable[..., np.ndarray]) -> None:
    image, probabilities = scene(2)
    three = np.concatenate([probabilities, np.zeros_like(probabilities[:1])])
    found = crf(image, three, SEED)
    assert found[2].max() < 1e-3
    np.testing.assert_allclose(found[:2], crf(image, probabilities, SEED), atol=1e-3)


def test_one_label_is_certain_everywhere(crf: Callable[..., np.ndarray]) -> None:
    assert crf(np.zeros((4, 5, 3), np.uint8), np.full((1, 4, 5), 0.2, np.float32), PARAMS).tolist() == np.ones((1, 4, 5)).tolist()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_tiny_images(crf: Callable[..., np.ndarray], size: tuple[int, int]) -> None:
    image, probabilities = scene(size=9)
    image, probabilities = image[: size[0], : size[1]], probabilities[:, : size[0], : size[1]]
    found = crf(image, probabilities, PARAMS)
    assert found.shape == (3, *size)
    assert np.abs(found - exact(image, probabilities, PARAMS)).max() <= 0.15


def test_inputs_are_left_as_they_were(crf: Callable[..., np.ndarray]) -> None:
    image, probabilities = scene()
    before = image.copy(), probabilities.copy()
    crf(image, probabilities, PARAMS)
    assert np.array_equal(image, before[0])
    assert np.array_equal(probabilities, before[1])


def test_twice_the_same_is_the_same_to_the_bit(crf: Callable[..., np.ndarray]) -> None:
    # The Gaussian kernel's lattice is kept from the first call.
    assert np.array_equal(crf(*scene(), PARAMS), crf(*scene(), PARAMS))


def test_a_batch_is_like_one_after_the_other() -> None:
    # Sizes and numbers of labels differ; one image has background alone.
    items = [scene(3), scene(2, size=9), scene(1, size=5), scene(5, size=20)]
    together = dense_crf_batch([image for image, _ in items], [given for _, given in items], PARAMS)
    for (image, given), found in zip(items, together, strict=True):
        np.testing.assert_allclose(found, dense_crf(image, given, PARAMS, backend="torch"), atol=1e-5)
        # A point on a boundary between simplices may come out on either side, which changes what is missing at the rim.
        assert np.abs(found - dense_crf(image, given, PARAMS)).max() <= 1e-2


def test_a_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pydensecrf is not installed") as caught:
        choose_backend("pydensecrf", "cpu")
    assert "--set pseudo.crf_backend=auto" in str(caught.value.hint)
    assert [choose_backend("auto", device) for device in ("cpu", "cuda")] == ["scipy", "torch"]
    assert [choose_backend(backend, "cpu") for backend in ("scipy", "torch")] == ["scipy", "torch"]


def test_named_constants() -> None:
    assert crf_params("seed", 10) == CrfParams(10, 3, 3, 80, 13, 10)
    assert crf_params("irn", 7) == CrfParams(7, 3, 3, 50, 5, 10)
    assert crf_params("deeplab", 10) == CrfParams(10, 1, 3, 67, 3, 4)
