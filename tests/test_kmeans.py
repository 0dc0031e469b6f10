"""k-means: fixed points, known clusters, and scikit-learn as the measure."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from rcatool import kmeans as module


def cloud(count: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kmeans(points: Tensor, k: int, *, seed: int, iterations: int = 30) -> Tensor:
    """The centres of a single group."""
    centres, exists = module.kmeans(points, torch.zeros(len(points), dtype=torch.long), 1, k, seed=seed, iterations=iterations)
    assert exists.tolist() == [[place < len(points) for place in range(k)]]
    return centres[0, exists[0]]


def distances(points: Tensor, centres: Tensor) -> Tensor:
    return ((points[:, None] - centres[None]) ** 2).sum(dim=2)


def inertia(points: Tensor, centres: Tensor) -> float:
    return float(distances(points, centres).min(dim=1).values.sum())


@pytest.mark.parametrize("count", [1, 3, 5])
def test_few_points_are_their_own_centres(count: int) -> None:
    points = cloud(count)
    assert torch.equal(kmeans(points, 5, seed=0), points)


def test_as_many_distinct_places_as_centres_leave_no_inertia() -> None:
    points = cloud(6).repeat(4, 1)
    for seed in range(5):
        assert inertia(points, kmeans(points, 6, seed=seed)) == pytest.approx(0, abs=1e-20)


def test_one_centre_is_the_mean() -> None:
    points = cloud(30)
    torch.testing.assert_close(kmeans(points, 1, seed=0), points.mean(dim=0, keepdim=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_inertia_never_rises_and_ends_at_a_fixed_point(seed: int) -> None:
    points = cloud(120, seed=seed)
    course = [inertia(points, kmeans(points, 7, seed=seed, iterations=n)) for n in range(1, 60)]
    assert all(later <= earlier + 1e-9 for earlier, later in zip(course, course[1:], strict=False))
    assert course[-1] == course[-2]
    centres = kmeans(points, 7, seed=seed, iterations=60)
    owner = distances(points, centres).argmin(dim=1)
    means = torch.stack([points[owner == k].mean(dim=0) for k in range(7)])  # every cluster has members
    torch.testing.assert_close(centres, means, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_finds_clusters_that_lie_apart(seed: int) -> None:
    middles = 100 * torch.eye(5, dtype=torch.float64)
    points = middles.repeat_interleave(20, dim=0) + cloud(100, 5, seed)
    expected = torch.stack([points[k * 20 : (k + 1) * 20].mean(dim=0) for k in range(5)])
    found = kmeans(points, 5, seed=seed)
    torch.testing.assert_close(found[distances(expected, found).argmin(dim=1)], expected, rtol=0, atol=1e-6)


def test_seeds_are_drawn_by_squared_distance() -> None:
    # Clusters are found from other seeds, too: one that runs empty takes the farthest point. So the seeds by themselves.
    apart = 100 * torch.eye(5, dtype=torch.float64).repeat_interleave(20, dim=0) + cloud(100, 5)
    for seed in range(20):
        assert kmeans(apart, 5, seed=seed, iterations=0).argmax(dim=1).unique().tolist() == [0, 1, 2, 3, 4]
    line = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)  # the first of the three alike, then by 0 + 1 + 9, 1 + 0 + 4, 9 + 4 + 0
    count = 3000
    drawn = [tuple(kmeans(line.repeat(2, 1), 2, seed=seed, iterations=0).flatten().tolist()) for seed in range(count)]
    expected = {(0, 1): 1 / 30, (0, 3): 9 / 30, (1, 0): 1 / 15, (1, 3): 4 / 15, (3, 0): 9 / 39, (3, 1): 4 / 39}
    assert set(drawn) == set(expected)
    for pair, share in expected.items():
        assert drawn.count(pair) / count == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_as_good_as_scikit_learn(seed: int) -> None:
    points = cloud(300, 5, seed)
    best = KMeans(8, n_init=10, random_state=seed).fit(points.numpy()).inertia_
    assert inertia(points, kmeans(points, 8, seed=seed, iterations=100)) <= 1.10 * best
    assert min(inertia(points, kmeans(points, 8, seed=s, iterations=100)) for s in range(10)) <= 1.02 * best


@pytest.mark.parametrize("iterations", [1, 2, 3, 100])
def test_from_the_same_start_every_step_is_scikit_learns(iterations: int) -> None:
    points = cloud(150, 3)
    start = kmeans(points, 6, seed=2, iterations=0)
    assert inertia(start, points) == 0  # seeds are points
    reference = KMeans(6, init=start.numpy(), n_init=1, max_iter=iterations, tol=0).fit(points.numpy())
    found = kmeans(points, 6, seed=2, iterations=iterations)
    torch.testing.assert_close(found, torch.from_numpy(reference.cluster_centers_), rtol=0, atol=1e-9)


def test_same_seed_same_centres_and_the_global_generator_is_left_alone() -> None:
    points, before = cloud(50), torch.get_rng_state()
    assert torch.equal(kmeans(points, 6, seed=4), kmeans(points, 6, seed=4))
    assert not torch.equal(kmeans(points, 6, seed=4, iterations=1), kmeans(points, 6, seed=5, iterations=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_far_from_the_origin_small_differences_still_count() -> None:
    # |a|^2 - 2 a b + |b|^2 would lose them in float32.
    points = 10000 + torch.tensor([[0.0], [0.25], [1.0], [1.25]])
    for seed in range(10):
        assert sorted(kmeans(points, 2, seed=seed).flatten().tolist()) == [10000.125, 10001.125]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(1, 3)] * 2), min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_any_points_give_centres_among_them(places: list[tuple[int, int]], k: int, seed: int) -> None:
    points = torch.tensor(places, dtype=torch.float32)  # often with duplicates
    centres = kmeans(points, k, seed=seed)
    assert centres.shape == (min(k, len(points)), 2)
    assert centres.dtype == points.dtype
    low, high = points.amin(dim=0), points.amax(dim=0)
    assert ((centres >= low - 1e-4) & (centres <= high + 1e-4)).all()
    assert inertia(points, centres) <= inertia(points, points.mean(dim=0, keepdim=True)) + 1e-4
    owned = distances(points, centres).argmin(dim=1).unique()
    assert len(owned) == min(len(centres), len(set(places)))  # no cluster is empty unless points coincide


def test_groups_do_not_know_of_each_other() -> None:
    """Invariant 27: together as apart; a permutation of the groups permutes the centres; a group may be small or empty."""
    sizes = {0: 40, 1: 0, 2: 3, 3: 25, 4: 1}
    parts = {group: cloud(size, seed=group) for group, size in sizes.items()}
    points = torch.cat(list(parts.values()))
    groups = torch.tensor([group for group, size in sizes.items() for _ in range(size)])
    centres, exists = module.kmeans(points, groups, 5, 6, seed=3)
    assert exists.sum(dim=1).tolist() == [6, 0, 3, 6, 1]
    for group, part in parts.items():
        if len(part):
            torch.testing.assert_close(centres[group, exists[group]], kmeans(part, 6, seed=3), rtol=0, atol=1e-12)
        assert (centres[group, ~exists[group]] == 0).all()
    renamed = torch.tensor([3, 4, 0, 2, 1])
    in_order, _ = module.kmeans(points, renamed[groups], 5, 6, seed=3)
    torch.testing.assert_close(in_order[renamed], centres, rtol=0, atol=1e-12)


def test_blocks_of_points_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, groups = cloud(101), torch.arange(101) % 3
    whole = module.kmeans(points, groups, 3, 4, seed=1)
    monkeypatch.setattr(module, "_BLOCK", 10)
    parts = module.kmeans(points, groups, 3, 4, seed=1)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(whole, parts, strict=True))


def test_an_empty_cluster_takes_the_farthest_point_of_its_group() -> None:
    points = torch.tensor([[0.0], [0.1], [9.0], [50.0], [50.5]])
    groups, exists = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([[True, True], [True, False]])
    sorted_ = module._sort(points, groups, 2)
    owner, distance = torch.tensor([0, 0, 0, 0, 0]), torch.tensor([4.0, 3.9, 5.0, 0.1, 0.1])
    means = module._means(sorted_, owner, distance, torch.zeros(2, 2, 1), exists)
    torch.testing.assert_close(means, torch.tensor([[[9.1 / 3], [9.0]], [[50.25], [0.0]]]))
