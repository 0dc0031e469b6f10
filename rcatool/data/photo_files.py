"""The files below a folder: which are photos, and what the others are."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".heif", ".hif")
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
MASK_SUFFIXES = (".png",)

SYSTEM_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db")
KINDS = {  # what else lies beside photos, and its suffixes
    "video": ".mp4 .mov .m4v .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .mts .m2ts .ogv",
    "sound file": ".mp3 .wav .m4a .aac .flac .ogg .wma",
    "text file": ".txt .md .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .html .htm .log .ini .rtf",
    "sidecar file": ".xmp .aae .thm .pp3 .dop",
    "document": ".pdf .doc .docx .xls .xlsx .ppt .pptx .odt .ods",
    "archive": ".zip .tar .gz .tgz .bz2 .xz .7z .rar",
}
KIND_OF = {suffix: kind for kind, suffixes in KINDS.items() for suffix in suffixes.split()}
# Pictures that a person may believe are taken: left out as well, but with a warning.
UNREADABLE_SUFFIXES = (
    ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".psd", ".svg", ".eps", ".tga", ".ico", ".exr", ".hdr", ".dcm", ".xcf",
    ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".dng", ".raf", ".rw2", ".orf", ".srw", ".pef", ".raw",
)  # fmt: skip


@dataclass(frozen=True)
class Files:
    """What lies below a folder; paths are relative to it, with /, and sorted."""

    wanted: list[str]
    unreadable: list[str]  # pictures of kinds that cannot be read, and those whose name cannot be written to a manifest
    skipped: Counter[str]  # kind of other file -> number


def files_below(folder: Path, suffixes: Sequence[str], *, skip: Path | None = None, ignore: Path | None = None) -> Files:
    """Find the files below `folder` that end in one of `suffixes`, in any case of letters.

    The folder `skip` is left out, and the file `ignore` not counted; hidden files are skipped. Links to files are followed,
    links to folders are not.
    """
    wanted: list[str] = []
    unreadable: list[str] = []
    skipped = Counter[str]()
    for parent, folders, names in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".")]
        links = [name for name in folders if name not in hidden and os.path.islink(os.path.join(parent, name))]
        skipped.update({"hidden folder": len(hidden), "linked folder": len(links)})
        folders[:] = [name for name in folders if name not in hidden and name not in links and Path(parent, name) != skip]
        above = Path(parent).relative_to(folder).as_posix()
        for name in names:
            kind = _kind(name, tuple(suffixes))
            if kind is not None:
                skipped[kind] += Path(parent, name) != ignore
                continue
            relative = name if above == "." else f"{above}/{name}"
            text = relative.encode(errors="backslashreplace").decode()
            if text != relative:
                unreadable.append(f"{text} (its name is not UTF-8)")
            else:
                (wanted if name.lower().endswith(tuple(suffixes)) else unreadable).append(relative)
    return Files(sorted(wanted), sorted(unreadable), +skipped)


def describe(counts: Counter[str]) -> str:
    """`3 videos, 1 text file`, the most frequent first."""
    return ", ".join(counted(count, kind) for kind, count in counts.most_common())


def counted(number: int, noun: str) -> str:
    """`1 photo`, `2 photos`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _kind(name: str, suffixes: tuple[str, ...]) -> str | None:
    """What a file is that is neither wanted nor a picture of another kind."""
    lower = name.lower()
    if lower.startswith(".") or lower in SYSTEM_FILES:
        return "hidden or system file"
    if lower.endswith((*suffixes, *UNREADABLE_SUFFIXES)):
        return None
    suffix = os.path.splitext(lower)[1]
    return KIND_OF.get(suffix) or f"{suffix or 'suffixless'} file"


class Names:
    """Looks up photos by the names that people type: the same letters can be written in two ways in Unicode (NFC, NFD)."""

    def __init__(self, photos: Sequence[str]) -> None:
        self._exact = set(photos)
        self._composed = {unicodedata.normalize("NFC", photo): photo for photo in photos}

    def find(self, name: str) -> str | None:
        """The photo of that name, or None."""
        return name if name in self._exact else self._composed.get(unicodedata.normalize("NFC", name))
