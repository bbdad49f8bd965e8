"""Ways to damage bytes, JSON and TOML, as strategies of Hypothesis: the structure stays, so that the damage is read."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

TEXTS = (
    "",
    " ",
    "two\nlines",
    "x" * 10_000,
    "../../etc/passwd",
    "/etc/passwd",
    "a\x00b",
    "..",
    "\x1b[31mred",
    "\u202eabc",
    "NaN",
    "1e999",
    "²",
    "9" * 5000,
    "{",
    "os:system",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    10**30,
    0.0,
    -0.5,
    1e308,
    1e-320,
    [],
    {},
    [[]],
    [None],
    {"": None},
    *TEXTS,
)
# What no writer of JSON gives and a file may hold.
TOKENS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    '"\\ud800"',
    "[" * 20_000 + "]" * 20_000,
    '{"a":' * 20_000 + "1" + "}" * 20_000,
    "01",
    "'x'",
    "",
)
_DUPLICATE = "@again@"
_INTEGERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)


# --- Bytes ---------------------------------------------------------------------------------------------------------


class Shown(bytes):
    """Bytes that are told by their length, or by themselves where they are few: files are long."""

    def __repr__(self) -> str:
        return super().__repr__() if len(self) < 400 else f"<{len(self)} bytes>"


def places(size: int, spots: Sequence[int] = ()) -> st.SearchStrategy[int]:
    """Somewhere in a file: its head and its tail, where formats keep what matters, its ``spots``, or anywhere."""
    last = size - 1
    ways = [st.integers(0, last), st.integers(0, min(64, last)), st.integers(max(0, last - 64), last)]
    inner = [spot for spot in spots if 0 <= spot <= last]
    return st.one_of(*ways, *([st.sampled_from(inner)] * 3 if inner else []))


@st.composite
def damaged(draw: st.DrawFn, data: bytes, spots: Sequence[int] = ()) -> bytes:
    """Bytes with up to four faults: bits, numbers, cuts, spans taken out, put in, repeated or moved."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        at = draw(places(len(content), spots))
        draw(st.sampled_from(_WAYS))(draw, content, at)
    return bytes(content)


def _flip(draw: st.DrawFn, content: bytearray, at: int) -> None:
    content[at] ^= 1 << draw(st.integers(0, 7))


def _number(draw: st.DrawFn, content: bytearray, at: int) -> None:
    """A length, an offset or a count that is beyond all bounds, or just beside the right one."""
    width = draw(st.sampled_from((1, 2, 4, 8)))
    value = draw(st.sampled_from((*_INTEGERS, len(content), len(content) - at)))
    order = draw(st.sampled_from(("little", "big")))
    content[at : at + width] = (value % 256**width).to_bytes(width, order)  # type: ignore[arg-type]


def _beside(draw: st.DrawFn, content: bytearray, at: int) -> None:
    content[at] = (content[at] + draw(st.sampled_from((-1, 1)))) % 256


def _cut(draw: st.DrawFn, content: bytearray, at: int) -> None:
    del content[at:]


def _take_out(draw: st.DrawFn, content: bytearray, at: int) -> None:
    del content[at : at + draw(st.integers(1, 64))]


def _put_in(draw: st.DrawFn, content: bytearray, at: int) -> None:
    content[at:at] = draw(st.one_of(st.binary(min_size=1, max_size=16), st.just(bytes(300))))


def _repeat(draw: st.DrawFn, content: bytearray, at: int) -> None:
    content[at:at] = content[at : at + draw(st.integers(1, 300))]


def _move(draw: st.DrawFn, content: bytearray, at: int) -> None:
    source, size = draw(st.integers(0, len(content) - 1)), draw(st.integers(1, 64))
    content[at : at + size] = content[source : source + size]


_WAYS = (_flip, _flip, _number, _number, _number, _beside, _cut, _take_out, _put_in, _repeat, _move)


# --- JSON ----------------------------------------------------------------------------------------------------------


def spots_of(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree of dicts and lists, as (container, key)."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from spots_of(node[key])


@st.composite
def json_texts(draw: st.DrawFn, text: bytes) -> bytes:
    """A record with up to three faults in its structure, and at times some in its bytes."""
    try:
        tree = [json.loads(text)]  # in a list, so that the whole is a place too
    except (ValueError, RecursionError):  # damaged before
        return draw(damaged(text)) if text else draw(st.binary(max_size=9))
    tokens: list[str] = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        found = list(spots_of(tree))
        if not found:
            break
        node, key = found[draw(st.integers(0, len(found) - 1))]
        draw(st.sampled_from(_EDITS))(draw, node, key, found, tokens)
    made = json.dumps(tree[0] if tree else None, ensure_ascii=draw(st.booleans()))
    made = made.replace(f'{_DUPLICATE}"', '"')
    for number, token in enumerate(tokens):
        made = made.replace(f'"{_mark(number)}"', token)
    data = made.encode("utf-8", "replace")
    return draw(damaged(data)) if data and draw(st.integers(0, 7)) == 0 else data


def _mark(number: int) -> str:
    return f"@token {number}@"


Edit = Callable[[st.DrawFn, Any, Any, Sequence[tuple[Any, Any]], list[str]], None]


def _other_value(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    node[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))


def _token(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    node[key] = _mark(len(tokens))
    tokens.append(draw(st.sampled_from(TOKENS)))


def _near(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    """A number of the same type that is a little or far off; a text with a tail; twice as many elements."""
    old = node[key]
    if isinstance(old, bool) or old is None:
        node[key] = not old
    elif isinstance(old, int):
        node[key] = draw(st.sampled_from((old + 1, old - 1, -old, 0, old * 1000, 2**31, 10**30)))
    elif isinstance(old, float):
        node[key] = draw(st.sampled_from((0.0, -old, old * 1e6, old / 1e6, 1e308, 1e-308)))
    elif isinstance(old, str):
        node[key] = draw(st.sampled_from((old + "x", old[:-1], old.upper(), old + "\n", "../" + old, old + "\0")))
    elif isinstance(old, list):
        node[key] = draw(st.sampled_from((old + old, old[:1], old[1:], [])))


def _exchange(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    other, other_key = found[draw(st.integers(0, len(found) - 1))]
    node[key] = copy.deepcopy(other[other_key])


def _remove(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    del node[key]


def _add(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    if isinstance(node, dict):
        node[draw(st.sampled_from(TEXTS))] = copy.deepcopy(draw(st.sampled_from(VALUES)))


def _twice(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    if isinstance(node, dict):
        node[f"{key}{_DUPLICATE}"] = copy.deepcopy(draw(st.sampled_from(VALUES)))


def _wrap(draw: st.DrawFn, node: Any, key: Any, found: Sequence[tuple[Any, Any]], tokens: list[str]) -> None:
    node[key] = draw(st.sampled_from(([node[key]], {"x": node[key]})))


_EDITS: tuple[Edit, ...] = (
    _other_value,
    _other_value,
    _near,
    _near,
    _near,
    _near,
    _near,
    _near,
    _token,
    _exchange,
    _remove,
    _add,
    _twice,
    _wrap,
)


# --- TOML ----------------------------------------------------------------------------------------------------------

_TOML_VALUES = (
    "true",
    "-1",
    "0",
    "0.0",
    "1e308",
    "nan",
    "inf",
    "-inf",
    "9" * 5000,
    '""',
    '"*"',
    '"[a"',
    "[]",
    "[[]]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "2026-13-45",
    "07:32:00",
    "[" * 2_000 + "]" * 2_000,
    "{a=" * 2_000 + "1" + "}" * 2_000,
    '"""',
    '"\\ud800"',
    "'two",
    "",
)


@st.composite
def toml_texts(draw: st.DrawFn, data: bytes) -> bytes:
    """A file of settings with other values, and lines taken out, repeated, moved or made up."""
    lines = data.decode().splitlines()
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        at = draw(st.integers(0, len(lines) - 1))
        key = lines[at].split("=")[0].strip(" []") or "variant"
        way = draw(st.sampled_from(("value", "value", "value", "out", "move", "line")))
        if way == "value":
            lines[at] = f"{key} = {draw(st.sampled_from(_TOML_VALUES))}"
        elif way == "out":
            lines[at] = ""
        elif way == "move":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        else:
            made = (f"[{key}]", f"[[{key}]]", f"{key}.{key} = 1", "[", "[[variant]]", "[a.b.c]", "unknown = 1")
            lines.insert(at, draw(st.sampled_from((*made, *(f"variant = {value}" for value in _TOML_VALUES)))))
    text = "\n".join(lines).encode()
    return draw(damaged(text)) if draw(st.integers(0, 7)) == 0 else text
