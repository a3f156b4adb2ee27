"""Links between pages, to files and to headings lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT

ALL = [*PAGES, ROOT / "CHANGELOG.md"]
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
#: A file of ours in running text.
_NAMED = re.compile(
    r"`((?:datamodules|lightning_modules|configs|benchmarks|tests|docs|notebooks)/(?!\S*my_)[\w./-]+\.\w+)`"
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    told = []
    for link in _LINK.findall(_CODE.sub("", text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            told.append(link)
    return told


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page, page.read_text())


def test_broken_links_are_found() -> None:
    text = "[a](data.md) [b](data.md#measured) [c](data.md#nowhere) [d](dota.md) [e](#neither)"
    assert broken(ROOT / "docs" / "speed.md", text) == ["data.md#nowhere", "dota.md", "#neither"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    assert not [name for name in _NAMED.findall(page.read_text()) if not (ROOT / name).exists()]


def unknown_to_the_site(page: Path, text: str) -> list[str]:
    """Links out of docs/ for which the site, built strictly, has no page (docs/site/pages.py)."""
    known = re.compile(
        r"(\.\./)?((README|CONTRIBUTING|CHANGELOG)\.md|notebooks/.*|models/[^/]+/README\.md)(#.*)?$"
    )
    return [
        link
        for link in _LINK.findall(_CODE.sub("", text))
        if link.startswith("../") and not known.match(link)
    ]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_site_has_what_pages_link_to(page: Path) -> None:
    assert not unknown_to_the_site(page, page.read_text())


def test_links_out_of_the_site_are_found() -> None:
    text = "[a](../models/properties/README.md) [b](../README.md#start) [c](../Makefile)"
    assert unknown_to_the_site(ROOT / "docs" / "speed.md", text) == ["../Makefile"]
