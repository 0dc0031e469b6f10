"""What `rca prepare voc` does before it looks at the data set: archives downloaded, SBD's masks converted."""

from dataclasses import dataclass, replace
from pathlib import Path

from rcatool import config_io
from rcatool.config import Config
from rcatool.errors import ConfigError
from rcatool.workflow import Request


@dataclass(frozen=True)
class Ready:
    """Where the data set is now: the folder with JPEGImages, and the masks to take."""

    root: Path
    masks: str | None  # a folder below root; None: as the settings say
    request: Request  # forced where masks are new, which no fingerprint notices


def make_ready(root: Path, request: Request, *, sbd: Path | None, out: Path | None, download: bool) -> Ready:
    """Download VOC 2012 and SBD to `root`, and convert SBD's masks (`sbd`: its unpacked archive), as far as asked for.

    The masks go beside the photos, or to `out`, which then is the data set's root. ConfigError for folders that are not there
    or not what they should be, SetupError for a download or a disk that fails.
    """
    from rcatool.data import voc
    from rcatool.pool import worker_count

    if out is not None and sbd is None and not download:
        raise ConfigError("--sbd-out: nothing to put there", "rca prepare voc --root DIR --sbd DIR --sbd-out DIR")
    # Others may fit the preset or the run that they are for only, and are checked there.
    runtime = [one for one in request.assignments if one.startswith("runtime.")]
    workers = worker_count(config_io.apply_settings(Config(), runtime).runtime.workers)
    if download:
        from rcatool.stages import voc_download

        voc_download.download(root, with_sbd=sbd is None)
        sbd = sbd or root
    base = voc.devkit(root)
    if sbd is None:
        return Ready(base, None, request)
    from rcatool.stages import sbd_masks

    if out is not None:
        base = sbd_masks.link(base, out)
    made = sbd_masks.convert(base, sbd, workers=workers)
    return Ready(base, sbd_masks.FOLDER, replace(request, force=request.force or made > 0))
