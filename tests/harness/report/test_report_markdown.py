"""The Markdown report is read as Markdown: what a record names stays text, and what is ours stays markup."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_records import HOSTILE, write_records

from harness.report import collect, markdown_cell, to_markdown

NAMES = (
    HOSTILE[0],
    HOSTILE[1],
    HOSTILE[4],
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
PLACES = {"bundle": "small", "variant": "onnx-fp32", "label": "clock", "host": "Phone SoC", "stage": "distil"}
# Nobody but us decides where these stand; the rest of what Markdown knows is not in our reports.
OURS = {"heading", "paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td", "inline"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"))


def renamed(records: Path, folder: Path, name: str, *, places: tuple[str, ...] = tuple(PLACES)) -> Path:
    """Return a copy of the records, with another name in some places."""
    for file in records.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        for place in places:
            text = text.replace(f'"{PLACES[place]}', f'"{json.dumps(name)[1:-1]}')
            text = text.replace(f"/{PLACES[place]} ", f"/{json.dumps(name)[1:-1]} ")  # of a cell's id
        copy = folder / file.relative_to(records)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    return folder


def parsed(text: str) -> list[Token]:
    """Return what a forge makes of Markdown (it comes with rich)."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def shape(tokens: list[Token]) -> Counter[str]:
    return Counter(token.type for token in tokens)


def inlines(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or ()]


def shown(tokens: list[Token]) -> str:
    return "\n".join("".join(child.content for child in token.children or ()) for token in tokens)


def assert_only_text(tokens: list[Token]) -> None:
    assert {re.sub("_(open|close)$", "", token.type) for token in tokens} <= OURS
    assert {child.type for child in inlines(tokens)} <= {"text", "code_inline", "softbreak", "text_special"}
    for token in tokens:
        # A forge looks for these in the finished text, where a backslash is gone; it leaves code alone.
        text = "".join("\0" if child.type == "code_inline" else child.content for child in token.children or ())
        assert not re.search(r"(?<![A-Za-z0-9_])@|@[\w-]+\.\w|@[0-9a-f]{7}|[#!]\d|GH-\d|://|www\.|\$", text), text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_no_markup(records: Path, tmp_path: Path, name: str, place: str) -> None:
    tokens = parsed(to_markdown(collect([renamed(records, tmp_path, name, places=(place,))]), title=name))
    assert_only_text(tokens)
    plain = re.sub(r"[`\s]", "", name)  # backticks in pairs make code, and blanks are as Markdown has them
    assert re.sub(r"[`\s]", "", shown(tokens)).count(plain) > 1, "it is shown as it is, and not in the title alone"


@pytest.mark.parametrize("name", [name for name in NAMES if "\n" not in name])
def test_a_hostile_name_moves_nothing(records: Path, tmp_path: Path, name: str) -> None:
    ours = shape(parsed(to_markdown(collect([records]), title="T")))
    assert shape(parsed(to_markdown(collect([renamed(records, tmp_path, name)]), title=name))) == ours


def test_our_own_markup_stays(records: Path) -> None:
    text = to_markdown(collect([records]), title="T")
    assert "The runner `mil` computes" in text
    assert "\n- small: no file can be recommended: `onnx-fp32`, `ptl-int8-dynamic-qnnpack` (lost 25.0 points" in text
    assert "| -50.0 % |" in text
    assert "| small/ptl-int8-dynamic-qnnpack@qnnpack t1 |" in text, "an engine is nobody's name"
    assert markdown_cell("`make browser` of x86_64, see harness/report_x") == (
        "`make browser` of x86_64, see harness/report_x"
    )
    assert markdown_cell(None) == "-"
    assert markdown_cell("---") == "---", "a table's rule is made of cells, too"
