"""The report's page in a real browser that can reach nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from results_made import bench_document, bench_record, eval_document, eval_record
from support import unchecked

from mlxquant.measure import results
from mlxquant.measure.report import report

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

#: harms a page that does not escape it
HOSTILE = (
    "</td></table><script>document.title='x'</script><img src=https://example.com/x onerror=1>"
)

#: visible boxes of all elements of a kind, CSS pixels
BOXES = """[...document.querySelectorAll({!r})].map(e => {{
    const box = e.getBoundingClientRect();
    return [box.left, box.top, box.width, box.height];
}})"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of section and hostile names."""
    folder = tmp_path_factory.mktemp("page")
    source = folder / "results"
    source.mkdir()
    evals = [eval_record(bits) for bits in (2.5, 4.5, 8.5)]
    hostile = {"model.format": HOSTILE, "model.tool": HOSTILE, "model.method": None}
    bare = {"kl": None, "reference": None, "top1": None, "top5": None}
    evals += [eval_record(3.5, **hostile), eval_record(5.5, **bare)]
    results.save(source / "eval.json", eval_document(*evals))
    contexts = range(0, 16 * 1024, 1024)
    benches = [bench_record(bits, context=c) for bits in (4.5, 8.5) for c in contexts]
    notes = {"machine.chip": HOSTILE, "conditions.notes": [HOSTILE]}
    results.save(source / "mac.json", bench_document(*benches))
    results.save(source / "other.json", bench_document(*benches, **notes))
    (source / "wrong<img src=x>.json").write_text("{}")
    return report(source, folder / "out").page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    program = chromium.find()
    if program is None:
        unchecked("chromium", "that the report's page works in a browser")
    with chromium.browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def tab(browser: chromium.Browser) -> chromium.Page:
    return browser.page()


@pytest.fixture
def page(tab: chromium.Page, made: Path) -> chromium.Page:
    """The page, freshly opened in a window of a laptop's size."""
    tab.media()
    tab.window(1280, 800)
    tab.open(made)
    return tab


def boxes(page: chromium.Page, selector: str) -> list[list[float]]:
    found: list[list[float]] = page.run(BOXES.format(selector))
    return found


def sections(page: chromium.Page) -> list[str]:
    found: list[str] = page.run("[...document.querySelectorAll('h2')].map(e => e.textContent)")
    return found


def test_nothing_is_asked_for_and_nothing_complains(page: chromium.Page, made: Path) -> None:
    requested = page.requested()
    assert requested[0] == made.absolute().as_uri()
    assert requested[1:] == ["data:image/svg+xml;base64"] * 3
    assert page.complaints() == []


def test_the_policy_holds(page: chromium.Page) -> None:
    page.run("fetch('https://example.com/').catch(() => 0); 0")
    page.run(
        """{
            const script = document.createElement("script");
            script.textContent = "document.title = 'changed'";
            document.body.append(script);
        }"""
    )
    assert page.run("document.title") == "mlxquant report"
    refused = [one for one in page.complaints() if "Content Security Policy" in str(one)]
    assert len(refused) >= 2
    assert not any("example.com" in address for address in page.requested())


def test_hostile_names_are_text(page: chromium.Page) -> None:
    assert page.run("document.title") == "mlxquant report"
    assert page.run("document.querySelectorAll('script').length") == 1
    assert page.run("document.querySelectorAll('img:not([src^=data])').length") == 0
    text = page.run("document.body.innerText")
    assert HOSTILE[:30] in text
    assert "wrong<img src=x>.json: format: not a file of results" in text


def test_plots_and_tables_are_to_be_seen(page: chromium.Page) -> None:
    assert sections(page) == [
        "books-7m: quality at size",
        "books-7m: speed and memory",
        "Machines",
        "Files that were not used",
    ]
    images = boxes(page, "img")
    assert len(images) == 3
    for left, _, width, height in images:
        assert width > 500 and height > 200
        assert left >= 0 and left + width <= 1280
    assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 500)")
    assert page.run("[...document.images].every(i => i.alt.length > 10)")
    tables = boxes(page, "table")
    assert len(tables) == 3
    assert all(width > 500 and height > 50 for _, _, width, height in tables)
    tops = [top for _, top, _, _ in sorted(images + tables, key=lambda box: box[1])]
    assert tops == sorted(set(tops))
    rows = page.run("[...document.querySelectorAll('table')].map(t => t.tBodies[0].rows.length)")
    assert rows == [5, 64, 3]


def cells(page: chromium.Page, column: int) -> list[str]:
    found: list[str] = page.run(
        f"[...document.querySelector('table').tBodies[0].rows]"
        f".map(r => r.cells[{column}].textContent)"
    )
    return found


def heads(page: chromium.Page) -> list[str]:
    found: list[str] = page.run(
        "[...document.querySelector('thead tr').cells].map(c => c.textContent)"
    )
    return found


def order(page: chromium.Page) -> list[Any]:
    found: list[Any] = page.run(
        "[...document.querySelector('thead tr').cells].map(c => c.getAttribute('aria-sort'))"
    )
    return found


def press(page: chromium.Page, column: int) -> None:
    """Click the middle of a column's header."""
    page.run(f"document.querySelectorAll('thead button')[{column}].scrollIntoView()")
    left, top, width, height = boxes(page, "thead button")[column]
    page.click(left + width / 2, top + height / 2)


def test_a_click_sorts_and_another_turns_it_around(page: chromium.Page) -> None:
    place = heads(page).index("bits per weight")
    assert cells(page, place) == ["2.50", "3.50", "4.50", "5.50", "8.50"]
    press(page, place)
    assert cells(page, place) == ["2.50", "3.50", "4.50", "5.50", "8.50"]
    press(page, place)
    assert cells(page, place) == ["8.50", "5.50", "4.50", "3.50", "2.50"]
    assert order(page)[place] == "descending"
    name = heads(page).index("format")
    press(page, name)
    assert order(page) == ["ascending" if i == name else None for i in range(len(order(page)))]
    assert cells(page, name)[1:] == sorted(cells(page, name)[1:])


def test_empty_cells_stay_last_and_numbers_sort_as_numbers(page: chromium.Page) -> None:
    place = heads(page).index("KL mean (nats)")
    for _ in range(2):
        press(page, place)
        assert cells(page, place)[-1] == ""
    values = [float(cell.split()[0]) for cell in cells(page, place)[:-1]]
    assert values == sorted(values, reverse=True)
    size = heads(page).index("size")
    press(page, size)
    assert cells(page, size) == ["2.29 MB", "3.21 MB", "4.13 MB", "5.05 MB", "7.80 MB"]


def test_sorting_by_keyboard(page: chromium.Page) -> None:
    place = heads(page).index("bits per weight")
    page.run("document.querySelector('table').parentElement.focus()")
    for _ in range(place + 1):
        page.press("Tab", 9)
    focused = "document.activeElement.textContent"
    assert page.run(focused) == "bits per weight"
    page.press("Enter", 13)
    assert order(page)[place] == "ascending"
    page.press(" ", 32)
    assert order(page)[place] == "descending"
    assert page.run(focused) == "bits per weight"
    outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_narrow_phone_scrolls_tables_not_the_page(page: chromium.Page) -> None:
    page.window(375, 700, phone=True)
    assert page.run("document.documentElement.scrollWidth") <= 375
    assert page.run("getComputedStyle(document.querySelector('td')).fontSize") == "13px"
    wide = "[...document.querySelectorAll('.wide')].map(e => [e.clientWidth, e.scrollWidth])"
    found = page.run(wide)
    assert all(width <= 375 for width, _ in found)
    assert sum(inside > width for width, inside in found) >= 5
    assert page.run("[...document.images].every(i => i.width >= 500)")


def luminance(colour: str) -> float:
    """Of a CSS colour `rgb(r, g, b)`, relative, as WCAG defines it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page: chromium.Page, scheme: str) -> None:
    page.media(prefers_color_scheme=scheme)
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for element in ("h1", "td", "figcaption", "caption", "th button"):
        ink = page.run(f"getComputedStyle(document.querySelector({element!r})).color")
        bright, dim = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, element
    image = page.run("getComputedStyle(document.querySelector('img')).filter")
    assert (image == "none") == (scheme == "light")


def test_it_prints(page: chromium.Page) -> None:
    page.media(prefers_color_scheme="dark")
    data = page.pdf()
    assert data.startswith(b"%PDF-")
    pages = re.findall(rb"/Type\s*/Page\b", data)
    sheets = {
        tuple(map(float, m)) for m in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", data)
    }
    # two for quality, two for the plots of speed, two or three for 64 rows; the rest is behind
    assert 4 <= len(pages) <= 8
    assert [(round(width), round(height)) for width, height in sheets] == [(842, 595)]


def test_without_a_script_nothing_is_missing_but_sorting(page: chromium.Page, made: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(made)
        assert heads(page)[0] == "format"
        assert len(boxes(page, "img")) == 3
        assert boxes(page, "thead button") == []
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
