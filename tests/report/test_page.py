import json
import math
import os
import re

import pytest
from PIL import Image

from ctxbench.report.figures import FIGURES
from ctxbench.report.page import _extra, _words, render_page, write_page
from ctxbench.report.page._cells import Cell, Range, cell, range_cell
from ctxbench.report.page._pictures import Embedder
from ctxbench.report.page._sections import ELSEWHERE, SECTIONS
from ctxbench.report.page._views import Show
from ctxbench.report.tables import TABLES
from tests.report.latency_rows import GPU, LATENCY, timing
from tests.report.page_rows import HOSTILE, KINDS, STAMP, build, read, save
from tests.report.rows import COUNTING, claim, counted, layer

MB = 1_000_000
_KINDS = ("claims", "layers", "latency", "experiments", "trials")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return build(tmp_path_factory.mktemp("page")).read_text()


def lines(text, table):
    """The lines of a table as text: its `<tr>` elements."""
    part = text.partition(f'data-table="{table}"')[2].partition("</table>")[0]
    return re.findall(r"<tr data-from.*?</tr>", part)


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def sections(text):
    found = re.findall(r'<section id="(\w+)".*?</section>', text, flags=re.DOTALL)
    return {name: text.partition(f'<section id="{name}"')[2].partition("</section>")[0]
            for name in found}  # fmt: skip


def test_every_claim_has_a_line(page):
    assert len(lines(page, "claims")) == len(KINDS["claims"])


def test_a_rebuild_gives_the_same_bytes(tmp_path):
    assert build(tmp_path / "one").read_text().replace(str(tmp_path / "one"), "") == build(
        tmp_path / "two"
    ).read_text().replace(str(tmp_path / "two"), "")


def test_a_line_names_the_file_line_and_stamp_of_its_rows(page):
    data = data_of(page)
    said = re.search(r'data-from="(\d+):(\d+)"', lines(page, "claims")[2])
    words = [data["words"][place] for place in data["runs"][int(said[1])]]
    run = dict(zip(data["fields"], words, strict=True))
    assert said[2] == "3"
    assert run.pop("file").endswith("raw/claims.jsonl")
    assert run == {
        "command": STAMP["command"], "time": STAMP["time"], "commit": "abc123", "seed": "7",
        "machine": "Abacus 3000, 4 cores, Linux", "versions": "python 3.11.0, torch 2.11.0",
        "device": "",
    }  # fmt: skip


def deep():
    nested = []
    for _ in range(400):
        nested = [nested]
    return nested


STRANGE = [
    ("ceilings", "device", None), ("ceilings", "gb_s", "x"), ("training", "speed_low", "x"),
    ("training", "speed_ratio", math.nan), ("training", "ours_images_s", deep()),
    ("counting", "ratio_to_fvcore", math.inf), ("counting", "unknown", 10**400),
    ("latency", "ratio_high", None), ("latency", "bound", deep()), ("latency", "runs", 10**400),
    ("claims", "difference", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "key", "value"), STRANGE, ids=[f"{k}-{n}" for k, n, _ in STRANGE])
def test_a_row_of_another_version_harms_no_page(kind, key, value, tmp_path):
    rows = {**KINDS, "counting": COUNTING}[kind]
    save(tmp_path / "raw", {"costs": KINDS["costs"], kind: [{**row, key: value} for row in rows]})
    assert "</html>" in render_page(read(tmp_path / "raw"), tmp_path)


def test_a_line_of_several_rows_names_their_lines_as_ranges(page):
    toy = lines(page, "verdicts_by_paper")[0]
    assert re.search(r'data-from="\d+:1-8"', toy)


def test_the_summary_counts_the_claims_and_names_the_missed(page):
    said = sections(page)["summary"]
    # of the rows written by hand: 2 params + 1 reproduced, 1 proved equal; 2 close; 1 + 3 differ
    assert "4 of 11 published costs are reproduced to the printed digits or proved equal" in said
    assert "2 close, 4 differ, 0 refuted, 1 not judged" in said


@pytest.mark.parametrize(
    ("against_macs", "said"),
    [
        (8, "coresnet50 has the MACs and parameters of resnet50 in each of 2 layers."),
        (9, "coresnet50 and resnet50 differ in cost in 1 of 2 layers."),
    ],
)
def test_the_summary_says_in_how_many_layers_costs_differ(against_macs, said):
    rows = {kind: [] for kind in KINDS}
    rows["layers"] = [layer("a", 8, against_macs=against_macs), layer("b", 4)]
    (statement,) = _words.summary(rows)
    assert statement.text == said


def test_the_summary_keeps_devices_apart():
    rows = {**{kind: [] for kind in KINDS}, "latency": LATENCY}
    said = [statement.text for statement in _words.summary(rows)]
    cpu, gpu = ([text for text in said if text.startswith(name)] for name in ("Abacus", "Loom"))
    assert "networks timed beside their baselines: 1 slower, 0 faster" in cpu[0]
    assert "the largest ratio is 1.25" in cpu[0]
    assert "the largest ratio is 2.00" in gpu[0]


def test_times_of_two_devices_stand_in_lines_of_their_own(page):
    devices = [re.search(r'data-f0="([^"]*)"', line)[1] for line in lines(page, "context_cost")]
    assert sorted(set(devices)) == ["Abacus 3000, 2 threads", "Loom X1"]


def test_a_kind_without_rows_is_told_with_its_command(page):
    assert "No rows of the kind <i>counting</i> yet" in sections(page)["tools"]
    assert "<code>make benchmark</code>" in sections(page)["tools"]


def test_a_page_of_claims_alone_says_what_makes_the_others(tmp_path):
    text = build(tmp_path, {"claims": KINDS["claims"]}).read_text()
    for section in SECTIONS[1:]:
        assert text.count(f'<section id="{section.key}"') == 1
        assert "This makes them" in sections(text)[section.key]


def test_hostile_text_stays_text(tmp_path):
    hostile = claim(HOSTILE, HOSTILE, "top-1 error (%)", HOSTILE, paper=HOSTILE, note=HOSTILE)
    save(tmp_path / "raw", {"claims": [hostile]}, {**STAMP, "command": HOSTILE})
    text = build(tmp_path, KINDS).read_text()
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert HOSTILE in data_of(text)["words"]


def test_nothing_is_fetched(page):
    assert re.findall(r'(?:src|srcset|action|poster)="(?!data:)', page) == []
    assert re.findall(r"url\(|@import|https?://", page) == []
    assert "default-src 'none'" in page


def test_links_go_to_files_beside_the_page_or_into_it(page):
    links = set(re.findall(r'href="([^"]*)"', page))
    ids = re.findall(r' id="([^"]*)"', page)
    inside = {link for link in links if link.startswith("#")}
    assert {link[1:] for link in inside} <= set(ids)
    assert all(link.startswith(("tables/", "figures/", "data:")) for link in links - inside)
    assert len(ids) == len(set(ids))


def test_a_torn_line_is_noted_on_the_page(tmp_path):
    save(tmp_path / "raw", {"claims": KINDS["claims"]})
    with (tmp_path / "raw/claims.jsonl").open("a") as file:
        file.write('{"paper": "torn\n')
    text = build(tmp_path, {"costs": KINDS["costs"]}).read_text()
    assert "skipped line 13" in sections(text)["origin"]


def test_a_picture_that_is_not_there_is_named(page):
    assert "not here: gallery/lost" in sections(page)["inside"]
    assert 'id="picture-gallery-cams"' in page


def test_many_lines_are_cut_and_say_so(tmp_path):
    many = [counted(f"Row {n}", f"net{n}", "GFLOPs", "1.00", "1.0", "close") for n in range(9000)]
    path = build(tmp_path, {**KINDS, "claims": many})
    text = path.read_text()
    shown = len(lines(text, "claims"))
    assert path.stat().st_size < 5 * MB
    assert 300 <= shown < 9000
    assert f"The first {shown:,} of 9,000 lines" in text
    assert 'all of them are in <a href="tables/claims.csv">' in text


def test_pictures_share_a_budget_and_the_rest_is_linked(tmp_path):
    noise = Image.effect_noise((1500, 300), 90)
    for name in "abcde":
        noise.save(tmp_path / f"{name}.png")
    embedder = Embedder(tmp_path, 500_000)
    found = [embedder.embed(name) for name in "abcde"]
    used = [len(each.uri) if each.uri else None for each in found]
    assert sum(filter(None, used)) <= 500_000
    assert used[0] > used[1]
    assert used[-1] is None
    assert found[-1].files == ["figures/e.png"]


@pytest.mark.parametrize("name", ["../outside", "torn", "absent"])
def test_a_picture_that_cannot_be_shown_is_none(tmp_path, name):
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    whole = (tmp_path / "outside.png").read_bytes()
    (tmp_path / "figures/torn.png").write_bytes(whole[:-30])
    assert Embedder(tmp_path / "figures", 10_000).embed(name) is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("macs", 4_089_184_256, Cell("4.089 G", "4089184256")),
        ("params", 25_557_032, Cell("25.56 M", "25557032")),
        ("n", 12_345, Cell("12,345", "12345")),
        ("p", 0.123456, Cell("0.1235", "0.123456")),
        ("gap", -0.5, Cell("\N{MINUS SIGN}0.5", "-0.5")),
        ("note", None, Cell("")),
        ("image_size", [224, 192], Cell("224x192")),
        ("verdict", "reproduced", Cell("reproduced", None, "good", "\N{CHECK MARK}")),
        ("verdict", "never heard of", Cell("never heard of", None, "open", "\N{MIDDLE DOT}")),
    ],
)
def test_a_cell_is_short_and_keeps_its_exact_value(key, value, expected):
    assert cell(key, value) == expected


def test_a_range_shows_its_interval():
    line = {"ratio": 1.2345, "ratio_low": 1.2, "ratio_high": 1.3}
    told = range_cell(Range("ratio", "ratio_low", "ratio_high"), line)
    assert told == Cell("1.23 [1.20, 1.30]", "1.2345 [1.2, 1.3]")


def test_every_verdict_differs_by_more_than_colour(page):
    chips = re.findall(r'class="chip (\w+)"><span aria-hidden="true">(.)</span> ([\w ]+)<', page)
    assert {("good", "="), ("near", "\N{ALMOST EQUAL TO}"), ("bad", "\N{NOT EQUAL TO}")} <= {
        (look, sign) for look, sign, _ in chips
    }


def test_every_figure_says_what_it_shows():
    assert set(_words._ALTERNATIVES) == set(_words.CAPTIONS) == set(FIGURES)


def test_sections_name_tables_and_figures_that_exist():
    items = [item for section in SECTIONS for item in section.items]
    own = {"layers", "layer_times", "ceilings"}
    assert {item.table for item in items if isinstance(item, Show)} <= own | set(TABLES)
    assert {item for item in items if isinstance(item, str)} == set(FIGURES)
    assert set(ELSEWHERE) <= set(TABLES)


def test_every_table_is_on_the_page_or_inside_another(tmp_path):
    times = [*KINDS["latency"], timing("context", "plain", ratio=2.0, group="g3", **GPU)]
    counters = [{"model": "plain", "counter": "ours", "median_s": 0.5, "macs": 7, "runs": 5}]
    timers = [{"model": "plain", "batch": 1, "threads": 2, "ratio": 1.0, "ours_ms": 1.0}]
    kinds = {**KINDS, "latency": times, "counting": counters, "timers": timers}
    text = build(tmp_path, kinds).read_text()
    made = set(read(tmp_path / "raw").tables)
    assert {n for n in made if f'data-table="{n}"' not in text} == set(ELSEWHERE) & made


ALONE = dict.fromkeys(("against", "against_kind", "against_params", "against_macs"))


def test_layers_of_a_network_alone_are_compared_with_nothing(tmp_path):
    save(tmp_path / "raw", {"layers": [layer("conv1", 3, **ALONE)]})
    report = read(tmp_path / "raw")
    assert _words.summary(report.found.rows) == []
    (line,) = _extra.layers(report.found.rows["layers"]).to_dict("records")
    assert (line["params_more"], line["macs_more"]) == (None, None)


def test_layers_at_several_sizes_are_not_added_up():
    rows = [layer(name, 3, input_shape=[1, 3, side, side]) for name in "ab" for side in (8, 16)]
    said = [each.text for each in _words.summary({key: [] for key in _KINDS} | {"layers": rows})]
    assert [text.partition(" in ")[2] for text in said] == [
        f"each of 2 layers at 1x3x{side}x{side}." for side in (8, 16)
    ]


def told(number, command="by hand"):
    time = f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}"
    return STAMP | {"time": time, "seed": number, "command": command}


LARGE = {
    "commands": [{"note": "", "stamp": told(n, f"{n}{'x' * 300}")} for n in range(8_000)],
    "a note": [{"note": "y" * 6_000_000, "stamp": told(0)}],
    "late notes": [{"note": "y" * 5_000 * (n > 50), "stamp": told(0)} for n in range(1_500)],
}


@pytest.mark.parametrize("name", LARGE)
def test_texts_of_any_length_fit_on_the_page(name, tmp_path):
    rows = [
        counted(f"R{n}", "net", "params (M)", "10.00", "9.9", "close", paper=f"p{n % 150}", **row)
        for n, row in enumerate(LARGE[name])
    ]
    (tmp_path / "claims.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    text = render_page(read(tmp_path), tmp_path)
    # with the pictures it must stay below 5 MB
    assert len(text.encode()) < 1.6 * MB
    assert "</html>" in text


def test_the_summary_of_many_networks_stays_one():
    layers = [layer("conv1", 3, model=f"net{number}") for number in range(100)]
    times = [
        timing(f"net{n}", "plain", ratio=1.5, device_name=f"cpu {n % 30}", group=f"g{n}")
        for n in range(1000)
    ]
    rows = {key: [] for key in _KINDS} | {"layers": layers, "latency": times}
    said = [each.text for each in _words.summary(rows)]
    assert len(said) == 26
    assert said[12].startswith("88 more sentences like these")


def test_a_folder_whose_name_is_no_text_is_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    save(folder / "raw", {"costs": KINDS["costs"]})
    report = read(folder / "raw")
    assert "/?/raw/costs.jsonl" in write_page(report, tmp_path).read_text()
