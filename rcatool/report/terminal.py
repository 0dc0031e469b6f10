"""A picture inside the terminal, where the terminal says that it can: iTerm2's protocol (also WezTerm) or kitty's (also Ghostty)."""

import base64
import io
from collections.abc import Mapping

from PIL import Image

_CHUNK = 4096  # bytes of base64 in one of kitty's commands
_ITERM = ("iTerm.app", "WezTerm")


def protocol(environment: Mapping[str, str]) -> str | None:
    """`iterm`, `kitty` or None, by what the terminal says of itself; None inside tmux or screen, which swallow pictures."""
    if environment.get("TMUX") or environment.get("TERM", "").startswith(("screen", "tmux")):
        return None
    if environment.get("KITTY_WINDOW_ID") or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if environment.get("TERM_PROGRAM") in _ITERM or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return None


def encoded(picture: Image.Image, kind: str) -> str:
    """What to print so that the terminal shows a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    if kind == "iterm":
        return f"\033]1337;File=inline=1;size={len(buffer.getvalue())};width=100%:{data}\a"
    chunks = [data[first : first + _CHUNK] for first in range(0, len(data), _CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        keys = f"{'a=T,f=100,' if number == 0 else ''}m={int(number < len(chunks) - 1)}"
        parts.append(f"\033_G{keys};{chunk}\033\\")
    return "".join(parts)
