"""Markdown read as a forge reads it, and names that try to be more than text there."""

from __future__ import annotations

import re
from collections import Counter

from markdown_it import MarkdownIt
from markdown_it.token import Token

NAMES = (
    "<script>window.harmed = 1</script>",
    '"><img src=x onerror="window.harmed = 1">',
    "{{ 7 * 7 }} {% raw %} $x_1$ `code` \\",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert) [y][z] [^1] <https://evil.example> <!-- --> &lt;b&gt; &#64;someone",
    "see https://evil.example/a_b?c=1&d=<x>, www.evil.example, _www.evil.example, me@evil.example",
    "@someone owner/repository#1 #2 !3 GH-4 \\@someone \\#5 x@<b>@y z@0123abcd é@f $z$",
    "a `b` ```c `d \\` `@someone` `![e](https://evil.example)` `<b>`",
    "`",
    "`` ![x](https://evil.example/x.png) ``",
    "*a* **b** _c_ __d__ ~~e~~ snake_case x86_64",
    "# a|b ##",
    "1. a",
    "- a",
    "---",
    "===",
    "~~~",
    "    a",
    "a\n\n# b\n```\n<div>\n***\n===\n[c]: https://evil.example\n|d|\n|---|",
)
# Nobody but us decides where these stand; the rest of what Markdown knows is not in what we write.
OURS = {"heading", "paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td", "inline"}


def parsed(text: str) -> list[Token]:
    """Return what a forge makes of Markdown (it comes with rich)."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def shape(tokens: list[Token]) -> Counter[str]:
    return Counter(token.type for token in tokens)


def inlines(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or ()]


def shown(tokens: list[Token]) -> str:
    return "\n".join("".join(child.content for child in token.children or ()) for token in tokens)


def assert_only_text(tokens: list[Token], *, own: tuple[str, ...] = ()) -> None:
    """Nothing of the text is markup; ``own`` is what is ours besides, such as a title in bold."""
    assert {re.sub("_(open|close)$", "", token.type) for token in tokens} <= OURS
    inner = {re.sub("_(open|close)$", "", child.type) for child in inlines(tokens)}
    assert inner <= {"text", "code_inline", "softbreak", "text_special", *own}
    for token in tokens:
        # A forge looks for these in the finished text, where a backslash is gone; it leaves code alone.
        text = "".join("\0" if child.type == "code_inline" else child.content for child in token.children or ())
        assert not re.search(r"(?<![A-Za-z0-9_])@|@[\w-]+\.\w|@[0-9a-f]{7}|[#!]\d|GH-\d|://|www\.|\$", text), text


def plain(text: str) -> str:
    """Return text without what Markdown may drop of it: backticks in pairs make code, and blanks are as it has them."""
    return re.sub(r"[`\s]", "", text)
