"""Links and named files of the docs exist, headings that are linked too."""

import re

import pytest

from tests.docs.pages import DOCS, PAGES

ROOT = DOCS.parent


def _anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    dead = []
    for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            dead.append(f"{path}#{anchor}")
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_file_exists(page):
    named = re.findall(
        r"`((?:ctxbench|tests|results|benchmarks|experiments)/[\w/.]+\w)`", page.read_text()
    )
    assert [path for path in named if not (ROOT / path).exists() and "foo" not in path] == []
