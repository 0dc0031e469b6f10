"""Do the weights of a network expect the pictures that it gets?

Batch normalisation remembers the mean and variance of what went through it in training. Pictures of another normalisation give others.
So some pictures are shown in each of the ways that networks are trained on, and the way whose statistics are nearest to the remembered
ones is the one that the weights expect. It takes a few passes and no labels. Swapped colours alone cannot be told in this way: in
photos red and blue have nearly the same mean and variance.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from rcatool.data.transforms import MEAN, STD

AS_IS = "RGB, normalised"
CLEARLY = 0.6  # another way must leave less than this share of the difference
_LAYERS = 12  # the first ones see colours; those behind drown in what makes this data set another one


def _shown(scale: float, mean: Sequence[float], *, swapped: bool = False) -> Callable[[Tensor], Tensor]:
    """Makes `scale` times pictures in [0, 1] less `mean` of normalised ones (N, 3, H, W)."""

    def show(images: Tensor) -> Tensor:
        raw = images * images.new_tensor(STD).view(1, 3, 1, 1) + images.new_tensor(MEAN).view(1, 3, 1, 1)
        return ((raw.flip(1) if swapped else raw) - images.new_tensor(mean).view(1, 3, 1, 1)) * scale

    return show


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    AS_IS: lambda images: images,
    "values in [0, 1]": _shown(1, (0, 0, 0)),
    "values in [-1, 1]": _shown(2, (0.5, 0.5, 0.5)),
    "values in 0..255": _shown(255, (0, 0, 0)),
    "values in 0..255 less their mean": _shown(255, MEAN),
    "BGR, in 0..255 less their mean": _shown(255, MEAN[::-1], swapped=True),
}


@torch.inference_mode()
def input_fit(network: nn.Module, images: Sequence[Tensor]) -> dict[str, float]:
    """The difference of the statistics of normalised images (N, 3, H, W each) from the remembered ones, for each way to show them.

    It is the mean over layers and channels of (m - m')^2 / v' + v / v' - 1 - log(v / v'), which is 0 where they are equal (twice the
    Kullback-Leibler divergence of two normal distributions). Empty for a network without trained batch normalisation.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d) and _is_trained(layer)][:_LAYERS]
    if not layers or not images:
        return {}
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        return {name: _difference(network, layers, [way(image) for image in images]) for name, way in WAYS.items()}
    finally:
        for module, mode in modes:
            module.training = mode


def complaint(fit: Mapping[str, float]) -> str:
    """What is wrong with the input of a network whose `input_fit` this is; empty if nothing is, or it cannot be told."""
    if not fit:
        return ""
    best = min(fit, key=lambda name: fit[name])
    if best == AS_IS or fit[best] >= CLEARLY * fit[AS_IS]:
        return ""
    return f"these weights seem to expect pictures as {best} (difference of statistics {fit[best]:.2f}), but get {AS_IS} ({fit[AS_IS]:.2f})"


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a value that is not finite."""
    return [name for name, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]


def _is_trained(layer: nn.BatchNorm2d) -> bool:
    mean, variance = layer.running_mean, layer.running_var
    return mean is not None and variance is not None and bool((mean != 0).any()) and bool((variance > 0).all())


def _difference(network: nn.Module, layers: Sequence[nn.BatchNorm2d], images: Sequence[Tensor]) -> float:
    sums = {layer: [0.0, 0.0, 0] for layer in layers}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double()
        assert isinstance(layer, nn.BatchNorm2d)
        total = sums[layer]
        total[0], total[1] = total[0] + values.sum(dim=(0, 2, 3)), total[1] + (values**2).sum(dim=(0, 2, 3))
        total[2] += values.numel() // values.shape[1]

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        for image in images:
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for layer, (first, second, count) in sums.items():
        mean = first / count
        variance = (second / count - mean**2).clamp_min(1e-12)
        ratio = variance / layer.running_var.clamp_min(1e-12)
        found.append(((mean - layer.running_mean) ** 2 / layer.running_var.clamp_min(1e-12) + ratio - 1 - ratio.log()).mean())
    return float(torch.stack(found).mean())
