"""What a chapter of the report is made of; ``html`` and ``markdown`` know how each is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Text in plain words: a line that begins with "- " is an item of a list, `backticks` are code."""

    text: str
    tone: Literal["plain", "good", "bad", "open"] = "plain"
    kind: ClassVar[str] = "prose"


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Sentences to decide by; the first one stands over the others."""

    sentences: tuple[Prose, ...]
    kind: ClassVar[str] = "verdicts"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing, the same in words, and the figures behind it. It is drawn where it is shown."""

    title: str
    paint: Callable[[Figure], None]  # into an empty figure, with the colours of harness.report.plots.svg
    height_in: float
    alt: str  # the drawing in words
    says: str  # how to read it, for everybody
    data: Table
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures that stand side by side where there is room."""

    pictures: tuple[Picture, ...]
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A table whose cells are shaded by a share of 0 to 1 (None: not shaded)."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, float | None], ...]], ...]
    says: str
    kind: ClassVar[str] = "heat"


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """One image and what was said of it; ``uri`` is None where the image is not at hand."""

    uri: str | None
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """Images in rows."""

    title: str
    says: str
    images: tuple[Thumbnail, ...]
    kind: ClassVar[str] = "thumbnails"


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Lines to paste into a shell."""

    title: str
    lines: tuple[str, ...]
    kind: ClassVar[str] = "commands"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A titled part of a chapter; closed ones open on a click, and in print."""

    title: str
    blocks: tuple[Block, ...]
    is_open: bool = True
    kind: ClassVar[str] = "part"


Block = Prose | Verdicts | Table | Picture | Gallery | Heat | Thumbnails | Commands | Part


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A chapter with its anchor."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


def gallery(pictures: Sequence[Picture | None]) -> tuple[Block, ...]:
    """Return one gallery of the pictures that could be drawn; nothing for none."""
    made = tuple(picture for picture in pictures if picture is not None)
    return (Gallery(pictures=made),) if made else ()
