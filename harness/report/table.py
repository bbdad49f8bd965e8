"""A table of text, and how it is written as Markdown; ``templates/report.html.j2`` shows it as HTML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

_FIGURE = re.compile(r"[+\-−]?\d[\d.,]*(e[+-]?\d+)?(?=$|[\s×%])")  # the same as in sort.js


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; None is shown as a dash. Notes stand below, one line each."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    notes: tuple[str, ...] = ()
    is_key: bool = False  # to be read on a phone: each row of the page becomes a card there
    kind: ClassVar[str] = "table"

    @property
    def is_numeric(self) -> tuple[bool, ...]:
        """Whether each column holds figures (they stand to the right)."""
        columns = [[row[i] for row in self.rows if row[i] is not None] for i in range(len(self.columns))]
        return tuple(bool(cells) and all(_FIGURE.match(cell or "") for cell in cells) for cells in columns)


def grouped(notes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return one line a text, behind the names that it is said of."""
    names: dict[str, list[str]] = {}
    for name, text in notes:
        names.setdefault(text, []).append(name)
    return tuple(f"{', '.join(dict.fromkeys(group))}: {text}" for text, group in names.items())


_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji are spelt with them


def visible(text: str) -> str:
    """Return text in which control and format characters are spelt out (``⟨U+202E⟩``); line breaks stay.

    Direction marks would show a name otherwise than it is; a lone surrogate could not be written at all.
    """
    return "".join(c if _is_harmless(c) else f"⟨U+{ord(c):04X}⟩" for c in text)


def _is_harmless(character: str) -> bool:
    return character in "\n\t" + _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")


def shortened(text: str, length: int) -> str:
    """Return text of at most ``length`` characters; its middle goes, because ids differ at both ends."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


# Whitespace apart, text falls into `code`, characters that are neither text nor code, and runs of the rest.
_PIECE = re.compile(r"`[^`|<>&]+`|[`|<>&]|[^\s`|<>&]+")
_CHARACTERS = {"`": "&#96;", "|": "\\|", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
# What becomes a link, a mention, a reference or a formula by itself, a backslash before it or not; in code it does not.
_LIVE = re.compile(r"(?<![a-z0-9_])@|@[\w-]*\.|@[\da-f]{7}|[#!]\d|://|\$|www\.|GH-\d", re.IGNORECASE)
_MARKUP = re.compile(r"[\\\[\]*~#]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is none
_BLOCK = re.compile(r"^(\d{0,9})([-+=.)])(?=[-+=\s]|$)")  # begins a list, or makes a heading of the line above


def markdown_cell(value: str | None) -> str:
    """Return text that stays within its table cell and is no markup but `code`; None is a dash.

    Links, images, tags and mentions stay text too: a name out of a record must not fetch or call anybody.
    """
    return "-" if value is None else _PIECE.sub(_piece, " ".join(visible(value).split()))


def _piece(found: re.Match[str]) -> str:
    text = found[0]
    if text in _CHARACTERS:
        return _CHARACTERS[text]
    if text.startswith("`"):
        return text
    return f"`{text}`" if _LIVE.search(text) else _MARKUP.sub(r"\\\g<0>", text)


def markdown_table(table: Table) -> str:
    """Return a table's rows, and its notes as a list below them, without its title; every text stays text."""
    if table.rows:
        rows = (table.columns, ("---",) * len(table.columns), *table.rows)
        text = "\n".join("| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows)
    else:
        text = "Nothing to list."
    notes = "\n".join(f"- {markdown_line(note)}" for note in table.notes)
    return f"{text}\n\n{notes}" if notes else text


def markdown_line(text: str) -> str:
    """Return text that may stand at the beginning of a line."""
    return _BLOCK.sub(r"\1\\\2", markdown_cell(text))
