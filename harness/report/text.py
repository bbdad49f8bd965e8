"""Names and messages from records, made fit to be read: nothing invisible, nothing that turns a line around."""

from __future__ import annotations

import unicodedata

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
