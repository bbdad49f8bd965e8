"""The report in a real browser: nothing fails, nothing overflows, everybody can read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_records import HOSTILE, write_records

from harness.report.collect import collect
from harness.report.html import to_html

pytestmark = pytest.mark.browser

WIDTHS = (360, 1440)
# Elements that stick out of the window; what scrolls or is cut within its own frame does not.
STICKING_OUT = """() => {
  const wide = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")]
    .filter((e) => !e.closest(".scroll, .skip, .hidden") && !e.matches("svg *") && e.getClientRects().length)
    .filter((e) => e.getBoundingClientRect().right > wide + 1 || e.getBoundingClientRect().left < -1)
    .map((e) => `${e.tagName}.${e.className} ${Math.round(e.getBoundingClientRect().right)}`).slice(0, 5);
}"""

# Cells of cards with a part that stands in the column of the labels, which is 5.6 rem wide.
BESIDE_NO_LABEL = """() => [...document.querySelectorAll(".cards td")]
  .filter((td) => [...td.children].some((e) => e.getBoundingClientRect().left < td.getBoundingClientRect().left + 80))
  .map((td) => td.innerText.slice(0, 80))"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with everyday names, and one with hostile names wherever a record holds text."""
    folder = tmp_path_factory.mktemp("browser")
    made = {}
    for name, title in (("plain", "A report"), ("hostile", HOSTILE[5] + HOSTILE[0])):
        records = write_records(folder / name, hostile=name == "hostile")
        made[name] = folder / f"{name}.html"
        made[name].write_text(to_html(collect([records]), title=title), encoding="utf-8")
    return made


@contextmanager
def opened(chromium: Any, report: Path, *, width: int = 1440, scheme: str = "light") -> Iterator[Any]:
    """Open the report; any message on the console, failed request or dialog is kept in ``page.trouble``."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.trouble = []
    page.on("console", lambda message: page.trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.trouble.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (page.trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("data:", report.as_uri()))
            else page.trouble.append(f"request: {request.url}")
        ),
    )
    page.goto(report.as_uri())
    try:
        yield page
    finally:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_it_opens_without_trouble_and_within_the_window(
    chromium: Any, reports: dict[str, Path], name: str, width: int
) -> None:
    with opened(chromium, reports[name], width=width) as page:
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(STICKING_OUT) == []
        assert page.trouble == []
        assert page.evaluate("window.harmed") is None
        assert page.locator("h2").count() >= 5


def test_on_a_phone_a_cell_stands_beside_its_label(chromium: Any, reports: dict[str, Path]) -> None:
    with opened(chromium, reports["hostile"], width=360) as page:
        assert page.locator(".cards td code").count() > 0, "text with code in it falls apart first"
        assert page.evaluate(BESIDE_NO_LABEL) == []


@pytest.mark.parametrize(
    "seen",
    [("plain", 360, "light"), ("plain", 1440, "dark"), ("hostile", 360, "dark"), ("hostile", 1440, "light")],
)
def test_it_passes_axe(chromium: Any, axe: str, reports: dict[str, Path], seen: tuple[str, int, str]) -> None:
    name, width, scheme = seen
    with opened(chromium, reports[name], width=width, scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        violations = [
            f"{v['id']}: {len(v['nodes'])}, e.g. {json.dumps(v['nodes'][0]['html'])[:200]} "
            f"{v['nodes'][0]['failureSummary'][:300]}"
            for v in found["violations"]
        ]
        assert violations == []
        assert len(found["passes"]) > 15, "axe checked next to nothing"


def test_a_table_sorts_by_keyboard_alone(chromium: Any, reports: dict[str, Path]) -> None:
    with opened(chromium, reports["plain"]) as page:
        cells = page.locator("figure.table", has=page.locator("figcaption", has_text="Cells")).first
        head = cells.locator("th", has_text="median").first
        head.locator("button").focus()

        def medians() -> list[float]:
            column = head.evaluate("(th) => th.cellIndex")
            texts = cells.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
            return [float(text.split()[0]) for text in texts if text != "–"]

        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert medians() == sorted(medians())
        page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "descending"
        assert medians() == sorted(medians(), reverse=True)
        assert len(set(medians())) > 2
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") is None


def test_paper_shows_what_is_folded_and_is_white(chromium: Any, reports: dict[str, Path]) -> None:
    with opened(chromium, reports["plain"], scheme="dark") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details.part:not([open])").count() == 0
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert len(page.pdf(format="A4")) > 50_000
