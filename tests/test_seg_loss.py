"""Losses of the segmentation network against loops in float64; the teacher's corrections, weights from CAMs, the average of weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rcatool.cams import save_cam
from rcatool.data.manifest import Sample
from rcatool.errors import DataError
from rcatool.label_weights import MarginWeights, margin_weights
from rcatool.models.average import WeightAverage
from rcatool.models.seg_loss import corrected, pixel_loss, seg_loss
from rcatool.pseudo import LabelRule, Photo

LABELS = 4


def scene(ignored: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (2, 4, 5, 6) float64, labels at the same size and weights."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, LABELS, 5, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(LABELS, (2, 5, 6), generator=generator)
    label[torch.rand(2, 5, 6, generator=generator) < ignored] = 255
    return logits, label, torch.rand(2, 5, 6, generator=generator)


def by_loop(logits: Tensor, label: Tensor, *, balanced: bool = False, weight: Tensor | None = None, power: float = 0.0) -> float:
    sums: dict[bool, list[float]] = {}
    for b, y, x in np.ndindex(*label.shape):
        truth = int(label[b, y, x])
        if truth == 255:
            continue
        values = [math.exp(v) for v in logits[b, :, y, x].tolist()]
        p = values[truth] / sum(values)
        loss = -math.log(p) if power == 0 else (1 - p**power) / power
        w = 1.0 if weight is None else float(weight[b, y, x])
        part = sums.setdefault(balanced and truth > 0, [0.0, 0.0])
        part[0] += w * loss
        part[1] += w
    return sum(total / weights if weights else 0.0 for total, weights in sums.values())


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_losses_equal_a_loop(balanced: bool, weighted: bool, power: float) -> None:
    logits, label, weight = scene()
    options = {"balanced": balanced, "weight": weight if weighted else None, "power": power}
    assert float(seg_loss(logits, label, **options)) == pytest.approx(by_loop(logits, label, **options), abs=1e-5)


@pytest.mark.parametrize("balanced", [False, True])
def test_one_class_or_nothing_at_all(balanced: bool) -> None:
    logits, label, _ = scene(ignored=0)
    for value, options in ((0, {}), (2, {}), (255, {}), (1, {"weight": torch.zeros(2, 5, 6)})):
        leaf = logits.clone().requires_grad_()
        only = torch.full_like(label, value)
        found = seg_loss(leaf, only, balanced=balanced, **options)
        found.backward()
        nothing = value == 255 or bool(options)
        expected = 0.0 if nothing else by_loop(logits, only)  # the term that has no pixel is 0
        assert float(found.detach()) == pytest.approx(expected, abs=1e-5)
        assert bool(leaf.grad.isfinite().all())
        assert bool((leaf.grad == 0).all()) == nothing


def test_ignored_pixels_weigh_nothing() -> None:
    logits, label, weight = scene()
    changed = logits.clone()
    changed.movedim(1, -1)[label == 255] = 1e4
    weight[label == 255] = 7
    assert torch.equal(seg_loss(logits, label, weight=weight), seg_loss(changed, label, weight=weight))


def test_balanced_is_two_means_whatever_their_shares() -> None:
    logits = torch.zeros(1, LABELS, 10, 10)
    logits[:, 0] = 2
    label = torch.zeros(1, 10, 10, dtype=torch.long)
    label[0, 0, 0] = 3
    background, foreground = -math.log(math.exp(2) / (math.exp(2) + 3)), -math.log(1 / (math.exp(2) + 3))
    assert float(seg_loss(logits, label, balanced=True)) == pytest.approx(background + foreground, abs=1e-5)
    assert float(seg_loss(logits, label)) == pytest.approx(0.99 * background + 0.01 * foreground, abs=1e-5)


def test_generalised_cross_entropy_has_its_limits_and_its_gradient() -> None:
    logits, label, _ = scene(ignored=0)
    plain = pixel_loss(logits, label)
    assert torch.allclose(pixel_loss(logits, label, power=1e-4), plain, rtol=2e-3)
    assert torch.allclose(pixel_loss(logits, label, power=1.0), 1 - (-plain).exp(), atol=1e-6)
    grads = []
    for power in (0.0, 0.7):
        leaf = logits.float().requires_grad_()
        pixel_loss(leaf, label, power=power).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0] * (-0.7 * plain).exp().float()[:, None], rtol=1e-4, atol=1e-5)


def test_logits_so_wrong_that_p_is_0() -> None:
    logits, label = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_(), torch.ones(1, 1, 1, dtype=torch.long)
    assert float(pixel_loss(logits.detach(), label)) == 400
    found = pixel_loss(logits, label, power=0.5)
    found.sum().backward()
    assert float(found.detach()) == 2
    assert bool((logits.grad == 0).all())


def test_corrections_by_hand() -> None:
    # A photo tagged 1 (mask value 2): the teacher may say 0 and 2, where it is sure.
    says = {0: 6.0, 1: 6.0, 2: 6.0, 3: 0.5}  # value: its logit, beside zeros; sure but for the last column
    label = torch.tensor([[[1, 1, 1, 1], [0, 0, 0, 0], [255, 255, 255, 255]]])
    logits = torch.zeros(1, LABELS, 3, 4)
    for column, (value, logit) in enumerate(says.items()):
        logits[0, value % 3, :, column] = logit
    allowed = torch.tensor([[True, False, True, False]])
    found = corrected(label, logits, allowed, confidence=0.9)
    assert found.tolist() == [[[0, 1, 2, 1], [0, 0, 2, 0], [255, 255, 255, 255]]]
    assert corrected(label, logits, allowed, confidence=0.0)[0, 0].tolist() == [0, 1, 2, 0]
    sure = math.exp(6) / (math.exp(6) + 3)
    assert torch.equal(corrected(label, logits, allowed, confidence=sure + 1e-4), label)
    every = torch.tensor([[True, True, True, True]])
    assert corrected(label, logits, every, confidence=0.9)[0, 1].tolist() == [0, 1, 2, 0]


def test_corrections_at_the_labels_size() -> None:
    logits = torch.zeros(2, 2, 1, 1)
    logits[1, 1] = 9
    label = torch.zeros(2, 4, 4, dtype=torch.long)
    found = corrected(label, logits, torch.ones(2, 2, dtype=torch.bool), confidence=0.9)
    assert torch.equal(found, torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).long())


def weights_by_loop(label: np.ndarray, keys: list[int], cam: np.ndarray, background: np.ndarray, margin: float) -> np.ndarray:
    out = np.zeros(label.shape)
    for y, x in np.ndindex(*label.shape):
        scores = {0: float(background[y, x])} | {key + 1: float(cam[k, y, x]) for k, key in enumerate(keys)}
        own = scores.pop(int(label[y, x]), None)
        if own is not None and scores:
            lead = own - max(scores.values())
            out[y, x] = min(1.0, max(0.0, (lead + margin) / (2 * margin)))
    return out


@pytest.mark.parametrize("keys", [[], [3], [1, 4, 9]])
def test_weights_from_a_cam_equal_a_loop(keys: list[int]) -> None:
    rng = np.random.default_rng(len(keys))
    cam = rng.random((len(keys), 9, 11)).astype(np.float32)
    background = rng.random((9, 11)).astype(np.float32)
    label = rng.choice([0, 255, 7, *(key + 1 for key in keys)], (9, 11)).astype(np.uint8)  # 7: no map of it
    photo = Photo(np.array(keys, np.int64), cam)
    found = margin_weights(label, photo, background, margin=0.3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights_by_loop(label, keys, cam, background, 0.3), atol=1e-6)


def test_weights_by_hand() -> None:
    cam = np.array([[[0.9, 0.4, 0.3, 0.3, 0.1]]], np.float32)
    label = np.array([[1, 1, 1, 0, 0]], np.uint8)
    found = margin_weights(label, Photo(np.array([0]), cam), np.full((1, 5), 0.3, np.float32), margin=0.2)
    np.testing.assert_allclose(found, [[1, 0.75, 0.5, 0.5, 1]], atol=1e-6)


def test_weights_of_a_photo_from_its_file(tmp_path: Path) -> None:
    rule = LabelRule("power", bg_threshold=0.0, bg_power=2.0, crf="none", crf_params=None, confidence=0.0)
    weigh = MarginWeights(tmp_path, tmp_path, rule, 0.5)
    sample = Sample("a", "train", "a.jpg", None, (2, 4), (1,), 1, "")
    with pytest.raises(DataError, match=r"a\.npz: no such CAM file"):
        weigh(sample, np.zeros((2, 4), np.uint8))
    save_cam(tmp_path / "a.npz", np.array([1]), np.array([[[1.0, 0.5]]]), (2, 4))
    found = weigh(sample, np.full((2, 4), 2, np.uint8))
    # PIL's bilinear resize of (1, 0.5) to four columns: 1, 0.875, 0.625, 0.5; the background's score is (1 - that)^2.
    cam = np.array([1, 0.875, 0.625, 0.5])
    np.testing.assert_allclose(found, np.tile(np.clip(0.5 + cam - (1 - cam) ** 2, 0, 1), (2, 1)), atol=1e-3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())


def test_average_of_weights_is_torchs() -> None:
    torch.manual_seed(0)
    net = Net().double()
    average = WeightAverage(net, 0.6)
    decays = [min(0.6, (1 + t) / (10 + t)) for t in range(1, 31)]
    assert decays[0] < decays[5] < decays[-1] == 0.6

    def mean(old: Tensor, new: Tensor, count: int | Tensor) -> Tensor:
        decay = decays[int(count) - 1]
        return decay * old + (1 - decay) * new

    reference = AveragedModel(net, avg_fn=mean, use_buffers=True)
    reference.update_parameters(net)  # the first copies
    for _ in range(30):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += torch.randn_like(parameter)
            net.body(torch.randn(4, 2, 8, 8, dtype=torch.float64))  # moves running statistics
        average.update(net)
        reference.update_parameters(net)
    for name, value in average.model.state_dict().items():
        expected = net.state_dict()[name] if name.endswith("tracked") else reference.module.state_dict()[name]
        torch.testing.assert_close(value, expected, msg=name)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert int(average.updates) == 30


def test_average_of_what_does_not_move_is_that_to_the_bit() -> None:
    net = Net()
    average = WeightAverage(net, 0.9)
    for _ in range(7):
        average.update(net)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in average.model.state_dict().items())
