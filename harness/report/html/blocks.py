"""What a chapter of the HTML report is made of; the template knows how each is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

from harness.report.table import Table

_FIGURE = re.compile(r"[+\-−]?\d[\d.,]*(e[+-]?\d+)?(?=$|[\s×%])")  # the same as in sort.js


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
class Grid:
    """A table that sorts."""

    table: Table
    is_key: bool = False  # to be read on a phone: each row becomes a card there
    kind: ClassVar[str] = "grid"

    @property
    def is_numeric(self) -> tuple[bool, ...]:
        """Whether each column holds figures (they stand to the right)."""
        return tuple(_is_numeric([row[i] for row in self.table.rows]) for i in range(len(self.table.columns)))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing, the same in words, and the figures behind it."""

    title: str
    svg: Markup
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


Block = Prose | Verdicts | Grid | Picture | Gallery | Heat | Thumbnails | Commands | Part


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


def _is_numeric(cells: Sequence[str | None]) -> bool:
    texts = [cell for cell in cells if cell is not None]
    return bool(texts) and all(_FIGURE.match(text) for text in texts)
