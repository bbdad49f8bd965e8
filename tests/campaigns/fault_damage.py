"""Faults of ``faults.py`` that damage one file of finished work before a command reads it."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from fault_scene import Answer, Ended, Scene, in_child, is_rude

from udacisense.cli.main import run


def damage(path: Path, rng: random.Random) -> str:
    """Change a file in one of ten ways; return which."""
    content = bytearray(path.read_bytes())
    ways: list[Callable[[], str]] = [
        lambda: _flip(content, rng, 1),
        lambda: _flip(content, rng, 1),
        lambda: _flip(content, rng, 20),
        lambda: _cut(content, rng.randrange(len(content))),
        lambda: _cut(content, 0),
        lambda: _splice(content, rng, rng.randbytes(rng.randrange(1, 200))),
        lambda: _splice(content, rng, bytes(rng.randrange(1, 5000))),
        lambda: _repeat(content, rng),
    ]
    if path.suffix == ".json":
        ways += [lambda: _json(content, rng)] * 4
    if path.suffix == ".toml":
        ways += [lambda: _toml(content, rng)] * 8
    before = bytes(content)
    way = rng.choice(ways)()
    if bytes(content) == before:
        way = _flip(content, rng, 1)
    path.write_bytes(content)
    return way


def _flip(content: bytearray, rng: random.Random, count: int) -> str:
    for _ in range(count):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return f"{count} bits flipped"


def _cut(content: bytearray, size: int) -> str:
    del content[size:]
    return f"cut to {size} bytes"


def _splice(content: bytearray, rng: random.Random, junk: bytes) -> str:
    at = rng.randrange(len(content))
    content[at : at + len(junk)] = junk
    return f"{len(junk)} bytes of junk at {at}"


def _repeat(content: bytearray, rng: random.Random) -> str:
    at = rng.randrange(len(content))
    content[at:at] = content[at : at + 500]
    return f"500 bytes twice at {at}"


def _json(content: bytearray, rng: random.Random) -> str:
    """Change the structure: another type, no key, an unknown key, a path that leaves, a number beyond all bounds."""
    value = json.loads(content)
    spots: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):  # type: ignore[arg-type]
            spots.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    walk(value)
    node, key = rng.choice(spots)
    bad = [
        None,
        -1,
        1e308,
        "",
        "../../etc/passwd",
        "/etc/passwd",
        [],
        {},
        True,
        "x" * 10_000,
        [[[]]],
        "\ud83d\ude00",
        10**30,
    ]
    chosen = rng.choice([*bad, "drop", "add"])
    if chosen == "drop":
        del node[key]  # type: ignore[attr-defined]
    elif chosen == "add" and isinstance(node, dict):
        node["unknown"] = 1
    else:
        node[key] = chosen  # type: ignore[index]
    content[:] = json.dumps(value).encode()
    return f"{key} is {str(chosen)[:20]!r}"


def _toml(content: bytearray, rng: random.Random) -> str:
    """Change a line: another value, another key or section, no line, the same one twice."""
    lines = content.decode().splitlines()
    at = rng.choice([number for number, line in enumerate(lines) if line.strip()])
    key = lines[at].split("=")[0].strip(" []")
    values = [
        "true",
        "-1",
        "0",
        "1e308",
        "nan",
        "-inf",
        '""',
        '"[a"',
        "[]",
        "[[]]",
        "{}",
        "2026-13-45",
        "9" * 5000,
        "[",
    ]
    made = rng.choice(
        [
            *[f"{key} = {value}" for value in values],
            f"[{key}]",
            f"[[{key}]]",
            "[[variant]]",
            "variant = 1",
            'unknown = "key"',
            "[unknown]",
            "",
        ]
    )
    lines[at : at + rng.randrange(2)] = [made]
    content[:] = "\n".join(lines).encode()
    return f"line {at} is {made[:40]!r}"


def damaged(
    relative: str, line: str, *, recorded: bool, forks: bool = False
) -> Callable[[Scene, random.Random], Answer]:
    """A kind: damage one file of the finished work, then run a command on it.

    Args:
        relative: of the work; a ``*`` stands for any file there.
        line: the command; ``{w}`` is the copy that holds the damage.
        recorded: every byte of the file is covered by a checksum, so exit code 0 is wrong.
        forks: run the command in a process of its own: it reads the file with a library that may crash.
    """
    start = in_child if forks else _in_process

    def inject(scene: Scene, rng: random.Random) -> Answer:
        with scene.scratch() as folder:
            found = rng.choice(sorted(p for p in scene.work.glob(relative) if p.is_file())).relative_to(scene.work)
            top = found.parts[0]
            copy = folder / "w"
            copy.mkdir()
            for entry in scene.work.iterdir():
                if entry.name != top:
                    (copy / entry.name).symlink_to(entry)
            source = scene.work / top
            shutil.copytree(source, copy / top) if source.is_dir() else shutil.copy(source, copy / top)
            way = f"{found}: {damage(copy / found, rng)}"
            return _judge_damage(start(line.format(w=copy, o=folder)), way, recorded=recorded)

    return inject


def _in_process(line: str) -> Ended:
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = run(line.split())
        except BaseException as exc:
            return Ended(70, f"Traceback: {type(exc).__name__}: {exc}")
    return Ended(code, told.getvalue())


def _judge_damage(ended: Ended, way: str, *, recorded: bool) -> Answer:
    last = (ended.told.strip().splitlines() or [""])[-1][:300]
    if is_rude(ended):
        return Answer("rude", f"{way}: exit {ended.code}: {last}")
    if ended.code == 0 and recorded:
        return Answer("wrong", f"{way}: accepted")
    return Answer("unrecorded" if ended.code == 0 else "refused", f"{way}: exit {ended.code}: {last}")
