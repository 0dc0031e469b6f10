"""From photos and image tags to a segmentation network and an honest score."""

__version__ = "0.1.0"
