"""What a program shows on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def shown(code: str, **environment: str) -> str:
    """What Python code writes to a terminal."""
    leader, follower = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    settings = {**inherited, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), **environment}
    subprocess.run([sys.executable, "-c", code], stdout=follower, stderr=follower, env=settings, check=True)
    os.close(follower)
    text = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # how Linux says that the other end is closed
            return text.decode()
        if not piece:
            return text.decode()
        text += piece
