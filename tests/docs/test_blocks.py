"""Every shell block of the README and the documentation runs, page by page, in order, in an empty folder.

A block that cannot run is marked in the page, with its reason, as an HTML comment on the line before it:
``<!-- not run: needs a phone -->``. A Python block with a title is written to that file, for the shell blocks after it.
Where a page speaks of hours of training, :data:`SHORTER` makes it minutes: real data and long training are replaced by
drawn shapes and one epoch; the commands and their order stay.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from udacisense.data.images import HOUSEHOLD_CLASSES
from udacisense.data.shapes import SHAPES, draw_dataset

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
_SHELL = ("", "sh", "bash", "shell", "console")
_WORDS = ("udacisense", "python", "make", "ls", "pip", "source")  # a block without a language is shell if it starts so

# What is appended to a command; click takes the last of two equal options.
SHORTER = {
    "udacisense train": "--epochs 1 --resolution 32 --init none",
    "udacisense compress": "--epochs 1 --resolution 32",
    "udacisense compress --pipeline p1 --baseline runs/baseline": "--student tiny",  # fewer layers to fit
    "udacisense export runs/": "-f ptl --precision fp32",
    "udacisense export my_model:build --input-shape 1,3,224,224": "-f ptl --precision fp32",
    "udacisense bench": "--quick --threads 1 --variant ptl-fp32",
}
# The command as a user starts it; the cells of a sweep alone are forks, as those of a verification are: no page asserts
# a time, and each would load PyTorch anew. tests/harness/cell starts cells as users do.
PROGRAM = """
import sys
from contextlib import nullcontext
from harness.cell import run as cells
from udacisense.base.child import run_child, warm_children
from udacisense.cli.main import main
cells.run_child = lambda *given, **options: run_child(*given, **{**options, "shares_cores": True})
with warm_children("harness.cell.worker", "torch") if "bench" in sys.argv[1:2] else nullcontext():
    main()
"""
# "A valid negative answer" is an answer: one epoch on shapes meets no requirement.
MAY_SAY_NO = ("udacisense gate", "udacisense verify")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    title: str | None
    text: str
    reason: str | None  # why it is not run

    @property
    def is_shell(self) -> bool:
        if self.language:
            return self.language in _SHELL
        return self.text.lstrip().startswith(_WORDS)


def blocks(page: Path) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        language, _, rest = match["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        found.append(Block(language, title[1] if title else None, match["text"], match["reason"]))
    return found


def pages_to_run() -> list[Path]:
    return [page for page in PAGES if any(block.is_shell and not block.reason for block in blocks(page))]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder with drawn images where pages expect data, and the command on the path."""
    draw_dataset(tmp_path / "shapes", train_per_class=4, test_per_class=1, seed=0)
    for split in ("train", "test"):  # of the same classes as the images they stand for: models that ship know no others
        for shape, name in zip(SHAPES, HOUSEHOLD_CLASSES, strict=True):
            (tmp_path / "shapes" / split / shape).rename(tmp_path / "shapes" / split / name)
    programs = tmp_path / ".bin"
    programs.mkdir()
    for name, line in {"udacisense": f"-c '{PROGRAM}'", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {line} "$@"\n')
        (programs / name).chmod(0o755)
    return tmp_path


def commands(text: str) -> list[str]:
    """Return the commands of a block: lines, joined where they end with a backslash, without prompts and comments."""
    lines = text.replace("\\\n", " ").splitlines()
    stripped = [re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip() for line in lines]
    return [line for line in stripped if line and not line.startswith("#")]


def shortened(command: str, place: Path) -> str:
    made = command.replace("--data cifar100", "--data shapes")
    if not (place / "photos").exists():  # most pages draw theirs
        made = made.replace("--data photos", "--data shapes")
    for start, options in SHORTER.items():
        if start in made and "--dry-run" not in made:
            made += f" {options}"
    return made


@pytest.mark.docs
@pytest.mark.parametrize("page", pages_to_run(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_blocks_of_a_page_run(page: Path, place: Path) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(place / ".bin"), os.environ["PATH"]]),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    for block in blocks(page):
        if block.title is not None:
            (place / block.title).write_text(block.text)
        if block.reason or not block.is_shell:
            continue
        for command in commands(block.text):
            line = shortened(command, place).replace("PYTHONPATH=. ", f"PYTHONPATH=.:{REPOSITORY} ")
            done = subprocess.run(
                ["bash", "-c", line],  # noqa: S607
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            allowed = (0, 1) if any(word in line for word in MAY_SAY_NO) else (0,)
            assert done.returncode in allowed, f"{line}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
            assert "Traceback" not in done.stderr, f"{line}\n{done.stderr[-3000:]}"


def test_every_reason_is_given_to_a_block() -> None:
    """A comment that has come apart from its block would hide nothing, and say that it does."""
    for page in PAGES:
        told = page.read_text(encoding="utf-8").count("<!-- not run:")
        used = sum(block.reason is not None for block in blocks(page))
        assert told == used, f"{page}: {told} reasons, {used} blocks that have one"


def test_pages_have_blocks_to_run() -> None:
    names = {str(page.relative_to(REPOSITORY)) for page in pages_to_run()}
    assert {
        "README.md",
        "docs/index.md",
        "docs/commands.md",
        "docs/tutorial.md",
        "docs/howto/gate-in-ci.md",
        "docs/verification.md",
    } <= names


def test_links_between_pages_lead_somewhere() -> None:
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(REPOSITORY)} -> {target}")
    assert not wrong


def test_the_command_line_pages_names_are_real() -> None:
    """Each ``udacisense COMMAND`` and ``--option`` that a page writes in a block exists."""
    from udacisense.cli.main import COMMANDS, cli

    context = cli.make_context("udacisense", ["doctor"], resilient_parsing=True)
    for page in PAGES:
        for block in blocks(page):
            if not block.is_shell:
                continue
            for line in commands(block.text):
                words = line.split()
                if "udacisense" not in words or words[0] in ("unshare",):
                    continue
                rest = [word for word in words[words.index("udacisense") + 1 :] if word not in ("--quiet", "--verbose")]
                name = rest[0]
                assert name in COMMANDS or name.startswith("-"), f"{page.name}: {line}"
                command = cli.get_command(context, name)
                options = {o for p in getattr(command, "params", []) for o in (*p.opts, *p.secondary_opts)}
                if hasattr(command, "commands"):
                    continue
                unknown = [w for w in rest if w.startswith("--") and w.split("=")[0] not in {*options, "--help"}]
                assert not unknown, f"{page.name}: {line}: {unknown}"
