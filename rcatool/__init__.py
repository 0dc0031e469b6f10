"""From photos and image tags to a segmentation network and an honest score."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcatool.mask_score import score
    from rcatool.segmenter import Segmentation, Segmenter

__version__ = "0.1.0"
__all__ = ["Segmentation", "Segmenter", "__version__", "score"]

_PLACES = {"score": "mask_score", "Segmentation": "segmenter", "Segmenter": "segmenter"}


def __getattr__(name: str) -> object:
    """What the package offers is loaded when it is first asked for: `import rcatool` and `rca --help` stay quick."""
    if name in _PLACES:
        import importlib

        found: object = getattr(importlib.import_module(f"rcatool.{_PLACES[name]}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
