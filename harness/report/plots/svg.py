"""matplotlib's drawings as SVG that stands inside a page: the page's colours and letters, the same bytes each time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from harness.report.table import shortened, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins: the page's style sheet says what they look like in light, in dark and on paper.
INK, MUTED, GRID, PAPER = "#0a0b10", "#0a0b11", "#0a0b12", "#0a0b13"
SERIES = tuple(f"#0a0b0{i}" for i in range(8))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 1, 2)))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}
WIDTH_IN = 5.0  # 360 pt: a point is about a pixel of a phone
_LABEL_LENGTH = 44
_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_ANCHOR = re.compile(r"#([\w-]+)")

_SETTINGS: Any = {  # of matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "udacisense",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def label(text: str) -> str:
    """Return a name as a drawing can hold it: one short line."""
    return shortened(visible(text).replace("\n", " "), _LABEL_LENGTH)


def draw(paint: Callable[[Figure], None], *, height_in: float, name: str, alt: str) -> Markup:
    """Return what ``paint`` draws as an ``<svg>`` element.

    Args:
        paint: draws into an empty figure of :data:`WIDTH_IN` inches with the colours of this module.
        height_in: height of the figure.
        name: makes the drawing's inner ids unlike those of the page's others.
        alt: the drawing in words.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    text = StringIO()
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # The letters are drawn by the reader's browser, with fonts that know more scripts than matplotlib's own.
        warnings.filterwarnings("ignore", message="(Glyph|Matplotlib currently does not support)", category=UserWarning)
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        paint(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return _inline(text.getvalue(), name=name, alt=alt)


def _inline(text: str, *, name: str, alt: str) -> Markup:
    root = ElementTree.fromstring(text)  # noqa: S314 - written a moment ago by matplotlib
    for parent in list(root.iter()):
        for child in list(parent):
            # Its style element would rule the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style") or _is_empty_defs(child):
                parent.remove(child)
    references = [e.get(key, "") for e in root.iter() for key in ("clip-path", _HREF)]
    used = {found for value in references for found in _ANCHOR.findall(value)}
    for element in root.iter():
        _make_inline(element, used, name)
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    root.attrib.clear()
    root.attrib |= {
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-label": visible(alt),
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    # ElementTree has escaped every text and attribute.
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704


def _make_inline(element: ElementTree.Element, used: Collection[str], name: str) -> None:
    """Keep ids that are referred to, under names of this drawing alone; the page's colours; no namespaces."""
    element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
    identity = element.attrib.pop("id", None)
    if identity in used:
        element.set("id", f"{name}-{identity}")
    if _HREF in element.attrib:
        element.set("href", _ANCHOR.sub(rf"#{name}-\1", element.attrib.pop(_HREF)))
    if "clip-path" in element.attrib:
        element.set("clip-path", _ANCHOR.sub(rf"#{name}-\1", element.attrib["clip-path"]))
    if "style" in element.attrib:
        element.set("style", _with_variables(element.attrib["style"]))


def _is_empty_defs(element: ElementTree.Element) -> bool:
    """Whether only a style element stands in it (it goes too)."""
    return element.tag == f"{{{_SVG}}}defs" and all(child.tag == f"{{{_SVG}}}style" for child in element)


def _with_variables(style: str) -> str:
    kept = [part for part in style.split(";") if not part.strip().startswith("font-family")]
    text = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", ";".join(kept))
    return re.sub(r"#0a0b[01][0-9]", lambda found: f"var({_VARIABLES.get(found[0], '--ink')})", text)
