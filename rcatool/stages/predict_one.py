"""What the run's segmentation network says of one photo of its own: for `rca show`, where `eval` made no prediction. Sees no tag."""

from pathlib import Path

import numpy as np

from rcatool.config import Config
from rcatool.data.datasets import MultiScaleDataset
from rcatool.data.loaders import view_loader
from rcatool.data.manifest import Sample, check_images
from rcatool.run import Run
from rcatool.seg_inference import best_class, photo_probabilities
from rcatool.stages.networks import load_seg
from rcatool.steps import last_network
from rcatool.world import make_world


def main(run: Run, config: Config, sample: Sample) -> np.ndarray:
    """Label map (H, W) uint8 of a photo, over the scales and mirror images of `eval`, without its CRF. StageError without a network."""
    run.require(last_network(config), config, by="show --predict")
    root = Path(config.data.root)
    check_images([sample], root)
    world = make_world(device=config.runtime.device, precision=config.runtime.precision, deterministic=config.runtime.deterministic)
    model = load_seg(run, config, world)
    dataset = MultiScaleDataset([sample], root, scales=config.eval.scales, flip=config.eval.flip)
    [(_, views)] = view_loader(dataset, workers=0)
    return best_class(photo_probabilities(model, views, sample.size, world=world))
