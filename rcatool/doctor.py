"""The checks of `rca doctor`: what this machine has, what it lacks, and what to do about it.

Libraries are loaded in processes of their own: one that crashes on import is a finding, not the end of the report.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcatool import console
from rcatool.files import disk_free

if TYPE_CHECKING:
    from rich.console import RenderableType

_GIB = 1 << 30
_TIMEOUT = 300  # seconds: a first import of torch from a slow disk takes its time
_SAME_INDEX = "install both from the same index: pip install --force-reinstall torch torchvision"

_TORCH = """
import json, torch
found = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": [], "hub": torch.hub.get_dir()}
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        found["devices"].append({"name": name, "capability": capability})
print(json.dumps(found))
"""
_TORCHVISION = "import json, torchvision; print(json.dumps({'version': torchvision.__version__}))"
_CRF = "import json, pydensecrf.densecrf; print(json.dumps({}))"


@dataclass(frozen=True)
class Check:
    """One finding; `status` is ok, warn or fail, `advice` what to do about it."""

    name: str
    status: str
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON."""
        return asdict(self)


def check_all(run: Path) -> list[Check]:
    """All checks, for a run directory that need not exist."""
    torch, torch_error = probe(_TORCH)
    return [
        _python(),
        _torch(torch, torch_error),
        _torchvision(*probe(_TORCHVISION)),
        _device(torch),
        _crf(*probe(_CRF)),
        _disk(run),
        _memory(),
        _weights(Path(torch["hub"]) / "checkpoints" if torch else None),
    ]


def report(checks: Sequence[Check]) -> "RenderableType":
    """The findings as a table."""
    return console.table("", ("check", "", "found", "what to do"), [(c.name, c.status, c.found, c.advice) for c in checks])


def probe(code: str) -> tuple[dict[str, Any] | None, str]:
    """Run Python code that prints a JSON object; that object, or None and the last line of what went wrong."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found, ""
    lines = done.stderr.strip().splitlines()
    return None, lines[-1] if lines else f"exit code {done.returncode}"


def _python() -> Check:
    return Check("python", "ok", platform.python_version())  # an older one could not have imported this


def _torch(found: dict[str, Any] | None, error: str) -> Check:
    if found is None:
        return Check("torch", "fail", f"does not load: {error}", "pip install --force-reinstall torch torchvision")
    return Check("torch", "ok", found["version"])


def _torchvision(found: dict[str, Any] | None, error: str) -> Check:
    if found is not None:
        return Check("torchvision", "ok", found["version"])
    versions = f"torch {_installed('torch')}, torchvision {_installed('torchvision')}"
    return Check("torchvision", "fail", f"does not load with this torch ({versions}): {error}", _SAME_INDEX)


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device(torch: dict[str, Any] | None) -> Check:
    if torch is None:
        return Check("device", "fail", "unknown, torch does not load", "first mend torch")
    if torch["devices"]:
        names = [
            f"{device['name']} (capability {'.'.join(map(str, device['capability']))}, {_precision(device['capability'])})"
            for device in torch["devices"]
        ]
        return Check("device", "ok", f"CUDA {torch['cuda']}: {', '.join(names)}")
    half = ", bf16" if _cpu_has_bf16(Path("/proc/cpuinfo")) else ""
    why = "this torch was built without CUDA" if torch["cuda"] is None else "no CUDA device is visible"
    faster = " (in two thirds of the time with --set runtime.precision=bf16)" if half else ""
    advice = f"fine for the demo and --config own-photos-cpu{faster}; VOC wants a GPU, its driver (nvidia-smi), a torch built for it"
    return Check("device", "warn", f"CPU only, {os.cpu_count()} cores{half}: {why}", advice)


def _cpu_has_bf16(about: Path) -> bool:
    """Whether the processor multiplies bfloat16 itself, as far as Linux tells."""
    flags = about.read_text(errors="replace").split() if about.is_file() else []
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _precision(capability: Sequence[int]) -> str:
    return "bf16" if capability[0] >= 8 else "fp32"


def _crf(found: dict[str, Any] | None, error: str) -> Check:
    if found is not None:
        return Check("dense CRF", "ok", f"built in; pydensecrf ({_installed('pydensecrf2')}) for comparisons")
    return Check("dense CRF", "ok", f"built in; no pydensecrf ({error}), which is for comparisons only")


def _disk(run: Path) -> Check:
    free = disk_free(run)
    found = f"{free / _GIB:.1f} GiB free for {run}"
    if free < _GIB // 4:
        return Check("disk", "fail", found, "make room, or choose another disk with --run DIR")
    return Check("disk", "ok" if free > 5 * _GIB else "warn", found, "" if free > 5 * _GIB else "a run on VOC needs about 5 GiB")


def _memory() -> Check:
    available = _available_memory()
    if available is None:
        return Check("memory", "ok", "unknown on this system")
    found = f"{available / _GIB:.1f} GiB available"
    if available > 4 * _GIB:
        return Check("memory", "ok", found)
    return Check("memory", "warn", found, "if it runs out: --set runtime.workers=1")


def _available_memory() -> int | None:
    """Bytes that can be used: what the system has, or what the container may."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text()) - int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no limit, or another kind of system
        return available
    return min(available, max(limit, 0))


def _weights(folder: Path | None) -> Check:
    if folder is None:
        return Check("weights", "warn", "unknown, torch does not load", "first mend torch")
    files = sorted(path.name for path in folder.glob("*.pth")) if folder.is_dir() else []
    if files:
        return Check("weights", "ok", f"{folder}: {', '.join(files)}")
    return Check("weights", "warn", f"{folder}: none yet", "`imagenet` downloads them; without a network: --set cls.weights=FILE")
