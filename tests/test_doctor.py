"""`rca doctor` on machines that lack something: stand-ins for the libraries lie before the real ones on the path."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

from rcatool import doctor

TORCH = """
__version__ = "2.9.0+cu130"
class version: cuda = {cuda!r}
class hub: get_dir = staticmethod(lambda: {hub!r})
class cuda:
    is_available = staticmethod(lambda: bool({devices}))
    device_count = staticmethod(lambda: len({devices}))
    get_device_name = staticmethod(lambda index: {devices}[index][0])
    get_device_capability = staticmethod(lambda index: {devices}[index][1])
"""
WRONG_BUILD = "raise RuntimeError('operator torchvision::nms does not exist')"


class Machine:
    """A machine to describe: which libraries there are and what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = folder / "hub"
        self.install("torchvision", "__version__ = '0.24.0+cu130'")
        self.install("pydensecrf", "")
        (folder / "pydensecrf" / "densecrf.py").write_text("")
        self.torch(cuda="13.0", devices=[("Big GPU", (9, 0))])

    def install(self, name: str, code: str) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "__init__.py").write_text(code)

    def torch(self, cuda: str | None, devices: list[tuple[str, tuple[int, int]]]) -> None:
        self.install("torch", TORCH.format(cuda=cuda, devices=devices, hub=str(self.hub)))

    def checks(self) -> dict[str, doctor.Check]:
        return {check.name: check for check in doctor.check_all(self.folder / "run")}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Machine(tmp_path)


def test_a_machine_that_has_everything(machine: Machine) -> None:
    (machine.hub / "checkpoints").mkdir(parents=True)
    (machine.hub / "checkpoints" / "resnet50.pth").write_text("")
    checks = machine.checks()
    assert list(checks) == ["python", "torch", "torchvision", "device", "dense CRF", "disk", "memory", "weights"]
    assert {check.status for name, check in checks.items() if name not in ("disk", "memory")} == {"ok"}
    assert checks["device"].found == "CUDA 13.0: Big GPU (capability 9.0, bf16)"
    assert "resnet50.pth" in checks["weights"].found
    assert not (machine.folder / "run").exists()


def test_torchvision_of_another_build(machine: Machine) -> None:
    machine.install("torchvision", WRONG_BUILD)
    check = machine.checks()["torchvision"]
    assert check.status == "fail"
    assert "operator torchvision::nms does not exist" in check.found
    assert "same index" in check.advice


def test_torch_that_does_not_load_or_crashes(machine: Machine) -> None:
    machine.install("torch", "raise ImportError('libcudart.so: cannot open')")
    checks = machine.checks()
    assert (checks["torch"].status, checks["device"].status, checks["weights"].status) == ("fail", "fail", "warn")
    assert "libcudart.so: cannot open" in checks["torch"].found
    machine.install("torch", "import os; os.abort()")
    assert machine.checks()["torch"].status == "fail"


@pytest.mark.parametrize(("cuda", "words"), [(None, "built without CUDA"), ("13.0", "no CUDA device is visible")])
def test_no_gpu(machine: Machine, cuda: str | None, words: str) -> None:
    machine.torch(cuda=cuda, devices=[])
    check = machine.checks()["device"]
    assert check.status == "warn"
    assert words in check.found


def test_an_old_gpu_has_no_bf16(machine: Machine) -> None:
    machine.torch(cuda="12.6", devices=[("Old GPU", (7, 5))])
    assert "capability 7.5, fp32" in machine.checks()["device"].found


def test_no_pydensecrf_and_no_weights(machine: Machine) -> None:
    machine.install("pydensecrf", "raise ImportError('no such thing')")
    checks = machine.checks()
    assert (checks["dense CRF"].status, checks["dense CRF"].found[:8]) == ("ok", "built in")  # the library is not needed
    assert checks["weights"].status == "warn"


@pytest.mark.parametrize(("free", "status"), [(1 << 40, "ok"), (1 << 30, "warn"), (1 << 20, "fail")])
def test_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(doctor, "disk_free", lambda path: free)
    assert machine.checks()["disk"].status == status


def test_the_command(machine: Machine, rca: Callable[..., Result]) -> None:
    code, out, err = rca("doctor")
    assert (code, err) == (0, "")
    assert "Big GPU" in out
    machine.install("torchvision", WRONG_BUILD)
    code, out, err = rca("doctor", "--json")
    assert code == 6
    assert "error: not ready: torchvision" in err
    assert {check["name"]: check["status"] for check in json.loads(out)}["torchvision"] == "fail"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 vnni\n", True),
        ("flags\t\t: amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx512f avx2\n", False),
    ],
)
def test_a_processor_with_half_precision_of_its_own(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert doctor._cpu_has_bf16(tmp_path / "cpuinfo") == expected
    assert not doctor._cpu_has_bf16(tmp_path / "none")
