"""A look at the weights of a network before and after training: do they expect these photos, are they finite?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from rcatool import console
from rcatool.data.manifest import Sample
from rcatool.data.photos import read_image
from rcatool.data.transforms import normalise, resize, to_tensor
from rcatool.errors import TrainingError
from rcatool.models.input_fit import complaint, input_fit, not_finite
from rcatool.world import World

_PHOTOS, _SIDE = 6, 160  # how many photos are shown, and how large: statistics of the first layers need no more


def check_input(step: str, backbone: nn.Module, samples: Sequence[Sample], root: Path, world: World) -> str:
    """Warn if a backbone's pretrained weights expect photos of another normalisation; returns what was said, empty if nothing."""
    chosen = samples[:: max(1, len(samples) // _PHOTOS)][:_PHOTOS]
    images = [normalise(resize(to_tensor(read_image(root / sample.image)), _SIDE, _SIDE))[None].to(world.device) for sample in chosen]
    found = complaint(input_fit(backbone, images))
    if found:
        console.warn(f"{step}: {found}; rca convert-weights makes weights of other programs fit")
    return found


def check_finite(step: str, state: Mapping[str, Tensor]) -> None:
    """Raise TrainingError if a trained network's state holds a value that is not finite: nothing made with it would mean anything."""
    wrong = not_finite(state)
    if wrong:
        hint = "--force with lower learning rates trains again; a loss can stay finite where a running mean does not"
        raise TrainingError(f"{step}: {len(wrong)} tensors of the trained network are not finite (first: {wrong[0]})", hint)
