"""From photos and image tags to a segmentation network and an honest score."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rcatool.mask_score import score

__version__ = "0.1.0"
__all__ = ["__version__", "score"]


def __getattr__(name: str) -> object:
    """`score` is loaded when it is first asked for: `import rcatool` and `rca --help` stay quick."""
    if name == "score":
        from rcatool.mask_score import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
