"""Ways to damage files that hold other files: the container stays whole, so that what is inside is read."""

from __future__ import annotations

import io
import json
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fuzz_damage import TEXTS, damaged, json_texts
from hypothesis import strategies as st

Inner = Callable[[bytes], st.SearchStrategy[bytes]]

# Of entries of a zip: out of its folder, no name, another entry's place, longer than any file system takes.
NAMES = (
    "../udacisense-escaped",
    "/udacisense-escaped",
    "a/../../udacisense-escaped",
    "..\\udacisense-escaped",
    "C:/udacisense-escaped",
    ".",
    "..",
    "a/",
    "manifest.json/a",
    "x" * 300,
    "x/" * 200 + "x",
    "\u202ea",
    "lib/arm64-v8a/other.so",
)
_METHODS = (*[zipfile.ZIP_STORED] * 4, *[zipfile.ZIP_DEFLATED] * 2, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(entries: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    return _packed([(name, content, 0o644) for name, content in entries.items()], method)


def _packed(entries: list[tuple[str, bytes, int]], method: int) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content, mode in entries:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            entry.external_attr = (mode if stat.S_IFMT(mode) else stat.S_IFREG | mode) << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def zips(inner: Mapping[str, Inner] | None = None) -> Inner:
    """A zip with entries renamed, changed, left out, doubled or made links, and at times damaged as a file too.

    Args:
        inner: how an entry whose name ends so is changed; others have their bytes damaged.
    """

    @st.composite
    def made(draw: st.DrawFn, data: bytes) -> bytes:
        if draw(st.integers(0, 2)) == 0:
            return draw(damaged(data, _signatures(data)))
        entries = [(name, content, 0o644) for name, content in entries_of(data).items()]
        for _ in range(draw(st.integers(1, 3))):
            if entries:
                _edit_entry(draw, entries, inner or {})
        packed = _packed(entries, draw(st.sampled_from(_METHODS)))
        return draw(damaged(packed, _signatures(packed))) if draw(st.integers(0, 4)) == 0 else packed

    return made


def _edit_entry(draw: st.DrawFn, entries: list[tuple[str, bytes, int]], inner: Mapping[str, Inner]) -> None:
    at = draw(st.integers(0, len(entries) - 1))
    name, content, mode = entries[at]
    way = draw(st.sampled_from(("content", "content", "content", "name", "out", "twice", "link")))
    if way == "content":
        change = next((found for ending, found in inner.items() if name.endswith(ending)), None)
        changed = draw(
            change(content) if change is not None else damaged(content) if content else st.binary(max_size=9)
        )
        entries[at] = name, changed, mode
    elif way == "name":
        entries[at] = draw(st.sampled_from(NAMES)), content, mode
    elif way == "out":
        del entries[at]
    elif way == "twice":
        entries.append((name, b"another", mode))
    else:
        entries[at] = name, b"/etc", stat.S_IFLNK | 0o777


def _signatures(data: bytes) -> list[int]:
    """Where a zip keeps its headers: most of them at its end."""
    found, at = [], data.find(b"PK")
    while at >= 0 and len(found) < 500:
        found += range(at, at + 46, 2)
        at = data.find(b"PK", at + 1)
    return found


# --- safetensors ---------------------------------------------------------------------------------------------------

_KINDS = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "C64",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "U64",
)


@st.composite
def safetensors(draw: st.DrawFn, data: bytes) -> bytes:
    """Weights whose header is changed and measured anew, or whose bytes are damaged."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    way = draw(st.integers(0, 3))
    if way == 0:
        return draw(damaged(data, range(0, 8 + length, 7)))
    if way == 1:
        made = draw(json_texts(data[8 : 8 + length]))
    else:
        names = [name for name in header if name != "__metadata__"]
        entry = header[draw(st.sampled_from(names))]
        _retype(draw, entry)
        made = json.dumps(header).encode()
    size = draw(st.sampled_from((len(made),) * 6 + (len(made) + 1, 0, 2**31, 2**63, 2**64 - 1)))
    return struct.pack("<Q", size) + made + body


def _retype(draw: st.DrawFn, entry: dict[str, Any]) -> None:
    """Another type or shape for the same bytes, where that is possible, or offsets that are not its own."""
    start, end = entry["data_offsets"]
    bits = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "F4": 4}
    way = draw(st.sampled_from(("type", "type", "shape", "offsets")))
    if way == "type":
        entry["dtype"] = draw(st.sampled_from(_KINDS))
        entry["shape"] = [(end - start) * 8 // bits.get(entry["dtype"], 8)]
    elif way == "shape":
        entry["shape"] = draw(
            st.sampled_from(([], [0], [-1], [2**31, 2**31, 2**31], [2**62, 4], [1] * 70, entry["shape"][::-1]))
        )
    else:
        entry["data_offsets"] = draw(
            st.sampled_from(([0, 2**62], [end, start], [start, end - 1], [start + 1, end + 1]))
        )


# --- PNG -----------------------------------------------------------------------------------------------------------


@st.composite
def pngs(draw: st.DrawFn, data: bytes) -> bytes:
    """A PNG with a chunk changed under a right checksum, which Pillow looks at, left out, doubled or moved."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(data))
    chunks = list(_chunks(data))
    for _ in range(draw(st.integers(1, 2))):
        if not chunks:
            break
        at = draw(st.integers(0, len(chunks) - 1))
        kind, payload = chunks[at]
        way = draw(st.sampled_from(("payload", "payload", "payload", "kind", "out", "twice", "first")))
        if way == "payload":
            chunks[at] = kind, draw(damaged(payload) if payload else st.binary(max_size=20))
        elif way == "kind":
            chunks[at] = (
                draw(st.sampled_from((b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"xxxx"))),
                payload,
            )
        elif way == "out":
            del chunks[at]
        elif way == "twice":
            chunks.insert(at, chunks[at])
        else:
            chunks.insert(0, chunks.pop(at))
    body = b"".join(
        struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        for kind, payload in chunks
    )
    return data[:8] + body


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


# --- Protocol buffers ----------------------------------------------------------------------------------------------

_INTEGERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32 - 1, 1000)
_MOST_SPOTS = 4000


def protobufs(read: Callable[[bytes], Any]) -> Inner:
    """A message with fields changed, left out or doubled, or damaged as bytes.

    Args:
        read: makes the message of its bytes.
    """

    @st.composite
    def made(draw: st.DrawFn, data: bytes) -> bytes:
        if draw(st.integers(0, 3)) == 0:
            return draw(damaged(data, range(0, min(len(data), 4000), 11)))
        message = read(data)
        for _ in range(draw(st.integers(1, 3))):
            found = list(_fields(message, [0]))
            if found:
                owner, field = found[draw(st.integers(0, len(found) - 1))]
                _edit_field(draw, owner, field)
        return bytes(message.SerializePartialToString())

    return made


def _fields(message: Any, seen: list[int]) -> Iterator[tuple[Any, Any]]:
    for field, value in message.ListFields():
        seen[0] += 1
        if seen[0] > _MOST_SPOTS:
            return
        yield message, field
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if _is_repeated(field) else [value]:
            yield from _fields(inner, seen)


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def _edit_field(draw: st.DrawFn, owner: Any, field: Any) -> None:
    name = field.name
    if _is_repeated(field):
        values = getattr(owner, name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _edit_map(draw, values)
            return
        at = draw(st.integers(0, len(values) - 1))
        way = draw(st.sampled_from(("out", "twice", "change")))
        if way == "out":
            del values[at]
        elif way == "twice":
            values.extend([values[at]])
        elif field.message_type is None:
            _try_set(lambda value: values.__setitem__(at, value), draw, field, values[at])
    elif field.message_type is not None or draw(st.integers(0, 4)) == 0:
        owner.ClearField(name)
    else:
        _try_set(lambda value: setattr(owner, name, value), draw, field, getattr(owner, name))


def _edit_map(draw: st.DrawFn, values: Any) -> None:
    key = draw(st.sampled_from(sorted(values)))
    if isinstance(values[key], str) and draw(st.booleans()):
        texts = st.one_of(st.sampled_from(TEXTS), json_texts(values[key].encode()).map(_text))
        values[key] = draw(texts)
    else:
        del values[key]


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _try_set(put: Callable[[Any], None], draw: st.DrawFn, field: Any, old: Any) -> None:
    if isinstance(old, bytes):
        value: Any = draw(damaged(old) if old else st.binary(max_size=8))
    elif isinstance(old, str):
        texts = st.sampled_from((*TEXTS, old + "x"))
        if old.startswith("{"):
            texts = st.one_of(texts, json_texts(old.encode()).map(_text))
        value = draw(texts)
    elif isinstance(old, bool):
        value = not old
    elif isinstance(old, float):
        value = draw(st.sampled_from((0.0, -1.0, float("nan"), float("inf"), 1e38)))
    else:
        value = draw(st.sampled_from((*_INTEGERS, old + 1)))
    try:
        put(value)
    except (ValueError, TypeError, UnicodeEncodeError):
        put(type(old)())  # beyond the field's range


# --- Plain data ----------------------------------------------------------------------------------------------------


def records(data: bytes) -> st.SearchStrategy[bytes]:
    """A record's JSON text, changed."""
    return json_texts(data)


def part(data: bytes, *keys: str) -> st.SearchStrategy[bytes]:
    """A record with one of some parts changed, and the rest whole."""
    value = json.loads(data)

    @st.composite
    def made(draw: st.DrawFn) -> bytes:
        key = draw(st.sampled_from(keys))
        changed = _text(draw(json_texts(json.dumps(value[key]).encode())))
        return json.dumps({**value, key: "@part@"}).replace('"@part@"', changed).encode()

    return made()


def libraries(data: bytes) -> st.SearchStrategy[bytes]:
    """A shared library with damage in its header and its program headers, for the most part."""
    return damaged(data, range(16, 64 + 56 * 8, 2))
