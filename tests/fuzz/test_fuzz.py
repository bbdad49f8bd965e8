"""Any bytes are a value or one deliberate error: every parser, from real files that were damaged in their structure.

The examples are the same at every run. ``UDACISENSE_FUZZ=50`` takes fifty times as many, others each time.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzz_damage import Shown, json_texts
from fuzz_hold import Place, judge
from fuzz_own import OWN
from fuzz_parsers import PARSERS, Parser
from fuzz_seeds import Seeds, example_of, example_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import exporters
import harness
import udacisense
from harness.cell.run import CellResult
from udacisense.base.records import from_json, to_json
from udacisense.errors import InputError

pytestmark = pytest.mark.fuzz

MORE = int(os.environ.get("UDACISENSE_FUZZ", "1"))
RECORD_EXAMPLES = 40
ROOMS = (udacisense, exporters, harness)


def hold(strategy: st.SearchStrategy[bytes], check: Callable[[bytes], None], *, examples: int) -> None:
    """Check that many examples of a strategy; a failure is told with the smallest bytes that show it."""

    @settings(
        max_examples=examples * MORE,
        deadline=None,  # a slow machine proves nothing
        derandomize=MORE == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(strategy.map(Shown))
    def holds(data: bytes) -> None:
        check(data)

    holds()


@pytest.fixture
def place(seeds: Seeds, tmp_path: Path) -> Place:
    return Place(tmp_path / "outer", seeds)


@pytest.mark.parametrize("row", PARSERS, ids=[row.name for row in PARSERS])
def test_the_whole_file_is_read(row: Parser, place: Place) -> None:
    """Else what is damaged below would be refused for another reason."""
    answer = row.parse(place, row.seed(place.seeds))
    assert not isinstance(answer, int) or answer in (0, 1), "refused by the command"


@pytest.mark.parametrize("row", PARSERS, ids=[row.name for row in PARSERS])
def test_damage_is_a_value_or_one_deliberate_error(row: Parser, place: Place) -> None:
    hold(
        row.damage(Shown(row.seed(place.seeds))),
        lambda data: judge(place, lambda: row.parse(place, data), limits_memory=not row.in_child),
        examples=row.examples,
    )


# --- Every kind of record ------------------------------------------------------------------------------------------


def sources() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            spec = importlib.util.find_spec(found.name)
            assert spec is not None
            assert spec.origin is not None
            yield found.name, ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@functools.cache
def read_records() -> dict[str, type]:
    """Every record class that some module reads from JSON, by ``module.Class``."""
    wanted = {
        ast.unparse(node.args[0])
        for _, tree in sources()
        for name, node in calls(tree)
        if name in ("read_json", "from_json", "read_in_child") and node.args
    }
    found = {}
    for module, _ in sources():
        for name, value in vars(importlib.import_module(module)).items():
            if name in wanted and hasattr(value, "__pydantic_config__") and value.__module__ == module:
                found[f"{module}.{name}"] = value
    assert {name.rsplit(".", 1)[1] for name in found} == wanted - {"cls", "kind"}
    return found


@pytest.mark.parametrize("kind", read_records().values(), ids=read_records())
def test_damaged_records_are_read_as_what_they_say_or_refused(kind: type, place: Place) -> None:
    def check(data: bytes) -> None:
        def parse() -> None:
            value = from_json(kind, data, source="the file")
            if kind is not CellResult:  # which holds values of any kind, infinite ones too
                assert from_json(kind, to_json(value), source="what was written of it") == value

        judge(place, parse)

    whole = example_text(kind)
    assert from_json(kind, whole, source="the file") == example_of(kind)
    hold(json_texts(Shown(whole)), check, examples=RECORD_EXAMPLES)


# --- Nothing is left out -------------------------------------------------------------------------------------------

READING = {
    "from_json",
    "Image.open",
    "json.loads",
    "load_file",
    "load_spec",
    "np.fromfile",
    "np.load",
    "onnx.load",
    "read_in_child",
    "read_json",
    "safe_open",
    "struct.unpack_from",
    "tomllib.loads",
    "torch.jit.load",
    "torch.load",
    "zipfile.ZipFile",
}


def test_every_module_that_reads_has_a_row_or_a_reason() -> None:
    reading = {
        module
        for module, tree in sources()
        for name, _ in calls(tree)
        if name in READING or name.endswith((".read_bytes", ".read_text", ".iter_content"))
    }
    covered = {module for row in PARSERS for module in row.reads}
    assert reading - covered - OWN.keys() == set(), (
        "give each a row in fuzz_parsers.PARSERS, or a reason in fuzz_own.OWN"
    )
    assert OWN.keys() - reading == set(), "these read nothing any more"
    assert covered - {module for module, _ in sources()} == set(), "there are no such modules"


def test_a_defect_would_be_found(place: Place) -> None:
    """The property fails for an exception that is not ours, for an error without a word, and for a file outside."""
    with pytest.raises(KeyError):
        judge(place, lambda: {}["absent"])  # type: ignore[index]
    with pytest.raises(AssertionError, match="no reason"):
        judge(place, lambda: _raise(OSError("no reason")))
    with pytest.raises(AssertionError, match="without a word"):
        judge(place, lambda: _raise(InputError(" ")))
    with pytest.raises(AssertionError, match="outside"):
        judge(place, lambda: (place.inner.parent / "escaped").write_text("x"))
    if Path("/proc/self/statm").exists():
        with pytest.raises(MemoryError):
            judge(place, lambda: bytearray(8 << 30))


def _raise(exc: Exception) -> None:
    raise exc
