"""The page of the report in Debian's Chromium, from disk and without a network."""

import shutil
from pathlib import Path

import pytest

from ctxbench.report.page import write_page
from tests.report.page_rows import HOSTILE, KINDS, STAMP, build, read, save
from tests.report.rows import claim

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
ROOT = Path(__file__).parents[2]
CLAIMS = "#claims-table tbody tr:not([hidden])"

# colours may be transparent: what lies behind an element is that of the first ancestor with one
CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const back = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const seen = new Map();
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.getClientRects().length || node.closest("script, [disabled]")) continue;
    const [one, two] = [light(parse(getComputedStyle(node).color)), light(back(node))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const name = `${node.tagName}.${node.className} in ${node.parentElement.tagName}`;
    seen.set(name, Math.min(ratio, seen.get(name) ?? 99));
  }
  return Object.fromEntries(seen);
}
"""
MISTAKES = """
() => {
  const found = [];
  const name = (node) => (node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent
    ?? node.textContent).trim();
  if (document.documentElement.lang !== "en") found.push("no language");
  if (!document.title) found.push("no title");
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  let level = 0;
  for (const head of document.querySelectorAll("h1, h2, h3, h4")) {
    if (Number(head.tagName[1]) > level + 1) found.push(`skipped to ${head.textContent}`);
    level = Number(head.tagName[1]);
  }
  for (const node of document.querySelectorAll("img"))
    if (!(node.alt.length > 20)) found.push("a picture without words");
  for (const node of document.querySelectorAll("button, select, input, a"))
    if (!name(node)) found.push(`no name: ${node.outerHTML}`);
  for (const node of document.querySelectorAll("th"))
    if (!["col", "row"].includes(node.scope)) found.push(`no scope: ${node.textContent}`);
  for (const node of document.querySelectorAll("[aria-labelledby]"))
    if (!document.getElementById(node.getAttribute("aria-labelledby"))) found.push("label");
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  if (new Set(ids).size !== ids.length) found.push("an id twice");
  return found;
}
"""
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
MISSING = "[...document.images].filter((i) => !(i.complete && i.naturalWidth)).map((i) => i.alt)"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return build(tmp_path_factory.mktemp("small"))


@pytest.fixture
def show(browser):
    """Open a page, and fail if it says anything on the console or asks for anything else."""
    contexts, said = [], []

    def open_page(path, hash="", **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: said.append(request.url[:200]))
        page.goto(path.as_uri() + hash)
        return page

    yield open_page
    for context in contexts:
        context.close()
    asked = [text for text in said if not text.startswith("data:")]
    assert [t for t in asked if not t.partition("#")[0].endswith("/report.html")] == []


def cells(page, column, rows=CLAIMS):
    """The texts of a column, without the one of the buttons, in the lines that are shown."""
    return page.locator(f"{rows} > :nth-child({column + 2})").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(show, small, scheme):
    page = show(small, color_scheme=scheme)
    page.locator(f"{CLAIMS} button").first.click()
    faint = {name: ratio for name, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5}
    assert faint == {}


def test_dark_mode_is_dark(show, small):
    backs = [
        show(small, color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert backs == ["rgb(255, 255, 255)", "rgb(16, 21, 27)"]


def test_a_reader_without_eyes_finds_names_and_an_order(show, small):
    page = show(small)
    page.locator(f"{CLAIMS} button").first.click()
    assert page.evaluate(MISTAKES) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(show, small, width):
    page = show(small, viewport={"width": width, "height": 800})
    page.locator(f"{CLAIMS} button").first.click()
    across, room = page.evaluate(WIDTHS)
    assert across <= room


def test_no_picture_is_missing(show, small):
    page = show(small)
    assert page.locator("img").count() == 12
    assert page.evaluate(MISSING) == []


def test_filters_narrow_and_count(show, small):
    page = show(small)
    form = page.locator("#claims-table form")
    form.get_by_label("paper").select_option("other")
    assert form.locator("output").inner_text() == "4 of 12 lines"
    form.get_by_label("verdict").select_option("differs")
    assert set(cells(page, 9)) == {"\N{NOT EQUAL TO} differs"}
    form.get_by_label("search").fill("ROW net2")
    assert cells(page, 2) == ["Row 2"]
    form.get_by_role("button", name="Clear").click()
    page.wait_for_function("document.querySelector('#claims-table output').textContent[0] === '1'")
    assert page.locator(CLAIMS).count() == 12


def test_search_finds_what_only_the_details_show(show, small):
    page = show(small)
    page.locator("#claims-table input").fill("8x8")
    assert page.locator(CLAIMS).count() == 12
    page.locator("#claims-table input").fill("nowhere to be found")
    assert page.locator(CLAIMS).count() == 0


def test_numbers_sort_by_value_and_empty_cells_come_last(show, small):
    page = show(small)
    head = page.locator("#claims-table thead th", has_text="ours")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert cells(page, 6)[:3] == ["100.0", "45.000", "11.0"]
    assert cells(page, 6)[-2:] == ["", ""]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert cells(page, 6)[-4:] == ["45.000", "100.0", "", ""]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert cells(page, 2)[:2] == ["Plain", "Plain"]


def test_fractions_and_negative_numbers_sort_by_value(show, small):
    page = show(small)
    page.locator("#claims-table thead button", has_text="relative difference").click()
    told = [text.replace("\N{MINUS SIGN}", "-") for text in cells(page, 7)]
    numbers = [float(text) for text in told if text]
    assert numbers == sorted(numbers, reverse=True)
    assert (numbers[0], numbers[-1], len(numbers)) == (9.0, -0.05, 10)


def test_words_sort_with_empty_cells_last(show, small):
    page = show(small)
    page.locator("#claims-table thead button", has_text="counted as").click()
    assert cells(page, 8) == ["macs"] * 2 + ["parameters"] * 7 + [""] * 3


def test_short_numbers_sort_by_their_exact_value(show, small):
    page = show(small)
    page.locator("#costs-table thead button", has_text="params").click()
    shown = cells(page, 2, "#costs-table tbody tr")
    assert shown == ["9007 T", "12"]


def test_the_keyboard_sorts_and_opens(show, small):
    page = show(small)
    page.locator("#claims-table thead button", has_text="verdict").focus()
    page.keyboard.press("Enter")
    assert page.locator("#claims-table [aria-sort]").inner_text() == "verdict"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "rows"
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert page.locator("#claims-table .told").count() == 1
    page.keyboard.press("Space")
    assert page.locator("#claims-table .told").count() == 0


def test_a_line_opens_to_the_rows_behind_it(show, small):
    page = show(small)
    page.locator("#claims-table tr", has_text="Deep").first.get_by_role("button").click()
    told = page.locator("#claims-table .told").inner_text()
    for text in (
        "raw/claims.jsonl, line 6", STAMP["command"], "2026-02-03T04:05:06+00:00", "abc123",
        "Abacus 3000, 4 cores, Linux", "python 3.11.0, torch 2.11.0", "seed\n7", "8x8",
    ):  # fmt: skip
        assert text in told


def test_details_go_with_their_line(show, small):
    page = show(small)
    page.locator("#claims-table tr", has_text="Deep").first.get_by_role("button").click()
    page.locator("#claims-table thead button", has_text="ours").click()
    before = page.locator("#claims-table tr.origins").evaluate(
        "(row) => row.previousSibling.cells[3].textContent"
    )
    assert before == "Deep"
    page.locator("#claims-table input").fill("Plain")
    assert page.locator("#claims-table tr.origins").is_hidden()


def test_a_command_can_be_copied(show, small):
    page = show(small, permissions=["clipboard-read", "clipboard-write"])
    page.locator(f"{CLAIMS} button").first.click()
    page.get_by_role("button", name="Copy the command").click()
    page.get_by_role("button", name="copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == STAMP["command"]


def test_a_picture_of_the_gallery_opens_to_its_rows(show, small):
    page = show(small)
    caption = page.locator("#picture-gallery-cams figcaption")
    caption.get_by_role("button").click()
    assert "raw/gradcam.jsonl, line 1" in caption.inner_text()


def test_the_address_keeps_a_filtered_view(show, small):
    page = show(small)
    page.locator("#claims-table select").first.select_option("other")
    page.locator("#claims-table thead button", has_text="ours").click()
    hash = page.evaluate("location.hash")
    again = show(small, hash)
    assert cells(again, 6) == ["100.0", "11.0", "10.0", "9.5"]
    assert again.locator("#claims-table").evaluate("(box) => box.getBoundingClientRect().y") < 400


def test_a_link_to_a_section_leaves_filters_alone(show, small):
    page = show(small)
    page.locator("#claims-table select").first.select_option("other")
    page.locator("nav a", has_text="Costs").click()
    assert page.locator(CLAIMS).count() == 4


def test_an_address_that_fits_nothing_shows_everything(show, small):
    page = show(small, "#claims.paper=gone&claims.sort=99d&nothing.q=1")
    assert page.locator(CLAIMS).count() == 12


def test_everything_is_there_without_scripts(show, small):
    page = show(small, java_script_enabled=False)
    assert page.locator("#claims-table tbody tr").count() == 12
    assert page.locator("#claims-table form").is_hidden()
    assert page.locator("#runs-table").get_by_text(STAMP["command"]).count() >= 1


def test_print_hides_controls_and_shows_whole_tables(show, small):
    page = show(small)
    page.emulate_media(media="print")
    for hidden in ("nav", "#claims-table form", ".from >> nth=0"):
        assert page.locator(hidden).is_hidden()
    box = page.locator("#claims-table .scroll")
    assert box.evaluate("(box) => getComputedStyle(box).overflowY") == "visible"


def test_text_of_rows_does_nothing(show, tmp_path):
    hostile = claim(HOSTILE, HOSTILE, "top-1 error (%)", HOSTILE, paper=HOSTILE, note=HOSTILE)
    save(tmp_path / "raw", {"claims": [hostile]}, {**STAMP, "command": HOSTILE})
    page = show(build(tmp_path, KINDS))
    page.locator("#claims-table select").first.select_option(HOSTILE)
    assert cells(page, 0) == [HOSTILE]
    page.locator(f"{CLAIMS} button").first.click()
    assert page.locator("#claims-table .told code").inner_text() == HOSTILE


def test_the_committed_results_make_a_page_that_works(show, tmp_path):
    shutil.copytree(ROOT / "results/figures", tmp_path / "figures")
    path = write_page(read(ROOT / "results/raw"), tmp_path)
    page = show(path, viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert path.stat().st_size < 5_000_000
    assert page.evaluate(MISSING) == []
    assert page.locator("img").count() > 20
    assert page.evaluate(MISTAKES) == []
    across, room = page.evaluate(WIDTHS)
    assert across <= room
    faint = {name: ratio for name, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5}
    assert faint == {}
