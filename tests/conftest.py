"""What all tests share: the real photos, and the command line called inside the test's own process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_run import SECOND, TinyRun, assign, make_tiny_run

from rcatool.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]


class Result(NamedTuple):
    """What a command left behind: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def pytest_configure() -> None:
    # Before torch is imported, by this process or by one that a test starts: tests share small machines.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def voc_part() -> Path:
    """The folder of the real photos; without it the test is skipped, or fails where RCA_REQUIRE_REAL=1."""
    root = Path(os.environ.get("RCA_VOC_PART") or REPOSITORY.parent / "shared" / "voc").resolve()
    if (root / "VOC2012" / "tags.txt").is_file():
        return root
    reason = f"no real photos in {root} (RCA_VOC_PART can name another folder)"
    if os.environ.get("RCA_REQUIRE_REAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A finished run that all tests share: copy it (`undisturbed.copy`) before changing anything."""
    return make_tiny_run(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def two_rounds(undisturbed: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with a second round, scored: copy it (shutil.copytree) before changing anything."""
    run = undisturbed.copy(tmp_path_factory.mktemp("rounds") / "run")
    for word in ("train-seg", "eval"):
        assert main([word, "--run", str(run), *assign(*SECOND)]) == 0
    return run


@pytest.fixture
def rca(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """Call `rca` as a person would, in a folder of the test's own: `rca("eval", "--run", run)` -> (code, out, err)."""
    from rcatool import console

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RCA_RUN", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*argv: str | Path) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in argv])
        return Result(code, *capsys.readouterr())

    yield call
    console.attach_log(None)
    console.configure(quiet=False)
