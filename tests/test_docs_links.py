"""Links between the pages: files and headings that they point to are there, and every page can be found."""

import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its code blocks, in which brackets mean something else."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        base = slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def test_anchors_are_githubs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `rca eval`: a run\n\n## What is lost?\n## VOC-part, 3 seeds\n## Twice\n## Twice\n```\n# no heading\n```\n")
    assert anchors(page) == {"rca-eval-a-run", "what-is-lost", "voc-part-3-seeds", "twice", "twice-1"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+://", link):
            assert link.startswith("https://"), link
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(REPOSITORY), f"{link}: outside of the repository"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading, there are {sorted(anchors(target))}"


def test_every_page_is_in_the_list_of_pages() -> None:
    index = REPOSITORY / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(index))}
    pages = {page for page in PAGES if page.parent in (REPOSITORY, index.parent) and page.name != "CHANGELOG.md"}
    assert linked >= pages - {index}


def test_the_readme_leads_to_the_list_of_pages() -> None:
    assert "docs/README.md" in LINK.findall(prose(REPOSITORY / "README.md"))


def test_pictures_are_small_and_have_a_text() -> None:
    for picture in (REPOSITORY / "docs" / "pictures").glob("*.png"):
        assert picture.stat().st_size < 150_000
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert shown
    assert all(len(text) > 20 for text, _ in shown)
