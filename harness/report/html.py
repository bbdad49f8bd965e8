"""The report as one HTML file: no network, no code but its own, the same in light, in dark and on paper."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from itertools import count
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from harness.report.blocks import Picture
from harness.report.chapters.document import chapters
from harness.report.collect import Evidence
from harness.report.plots.svg import draw
from harness.report.table import shortened, visible
from udacisense import __version__
from udacisense.base.display import now_utc

if TYPE_CHECKING:
    from udacisense.data.images import DataSet

_LONG = 160  # a cell of more characters is folded
_WHOLE = 40  # a word of at most so many characters stays on one line
_HEAT_STEPS = 8


def to_html(evidence: Evidence, *, title: str, dataset: DataSet | None = None) -> str:
    """Return the document as one HTML page.

    Args:
        evidence: the records.
        title: heading of the page.
        dataset: the images that were verified on, to draw those that changed their label; None draws those of golden
            packs alone.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=_finalize,
    )
    numbers = count()

    def drawn(picture: Picture) -> Markup:
        return draw(picture.paint, height_in=picture.height_in, name=f"p{next(numbers)}", alt=picture.alt)

    environment.filters |= {"prose": _prose, "cell": _cell, "heat": _heat, "tone": _tone, "drawn": drawn}
    script = _resource("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template("report.html.j2").render(
        title=title,
        created_utc=now_utc(),
        version=__version__,
        chapters=chapters(evidence, dataset),
        style=Markup(_resource("style.css")),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704
        script_sha256=digest,
    )
    return text.lstrip()  # the template opens with macros


def _resource(name: str) -> str:
    return (resources.files("harness.report") / "templates" / name).read_text(encoding="utf-8")


def _finalize(value: object) -> object:
    """Spell out what is invisible in every text that a template shows."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _prose(text: str) -> Markup:
    """Return paragraphs and lists; `backticks` become code. Everything else stays text."""
    made, items = [], []
    for line in [*visible(text).split("\n"), ""]:
        body = _with_code(shortened(line, 2000))
        if line.startswith("- "):
            items.append(f"<li>{body[2:]}</li>")
            continue
        if items:
            made.append(f"<ul>{''.join(items)}</ul>")
            items = []
        if body:
            made.append(f"<p>{body}</p>")
    return Markup("".join(made))  # noqa: S704 - escaped above


def _cell(value: str | None, length: int = _LONG) -> Markup:
    """Return a cell's content: outcomes as marks, long text folded."""
    if value is None:
        return Markup('<span class="none">–</span>')
    text = visible(value)
    if text in ("passed", "failed", "skipped"):
        return Markup('<span class="mark {0}">{0}</span>').format(text)
    if len(text) > length:
        folded = Markup('<details class="fold"><summary>{}</summary><p>{}</p></details>')
        return folded.format(shortened(text, _LONG // 2), text)
    if len(text) <= _WHOLE and " " not in text:
        return Markup('<span class="whole">{}</span>').format(text)  # an id does not break at its hyphens
    return _with_code(text)


def _with_code(text: str) -> Markup:
    """Escape text, and make `backticks` code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def _heat(share: float | None) -> str:
    """Return the class of a shade for a share of 0 to 1."""
    if share is None:
        return "heat-none"
    return f"heat-{min(_HEAT_STEPS - 1, max(0, int(share * _HEAT_STEPS)))}"


def _tone(tone: str) -> str:
    return {"plain": "", "good": "Good", "bad": "Attention", "open": "Open"}[tone]
