"""The arrow between the rooms goes one way, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from udacisense.cli import COMMANDS

ROOMS = ("udacisense", "exporters", "harness")
MAY_IMPORT = {"udacisense": {"udacisense"}, "exporters": {"udacisense", "exporters"}, "harness": set(ROOMS)}
GUARDED = ("onnx", "onnxruntime", "coremltools", "executorch")
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "coremltools", "matplotlib", "scipy", "numpy")
GROUPS = ("device", "runtime")


def lines_of_help() -> list[list[str]]:
    groups = {name: importlib.import_module(f"udacisense.cli.{name}").command.commands for name in GROUPS}
    within = [[group, name, "--help"] for group, commands in groups.items() for name in commands]
    return [["--help"], *([name, "--help"] for name in COMMANDS), *within]


def sources(repository: Path, room: str) -> list[Path]:
    found = sorted((repository / room).rglob("*.py"))
    assert found, f"no sources in {room}"
    return found


def imported_names(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction(repository: Path, room: str) -> None:
    wrong = []
    for path in sources(repository, room):
        if room == "udacisense" and "cli" in path.relative_to(repository).parts:
            continue
        roots = {name.split(".")[0] for name in imported_names(ast.parse(path.read_text()))}
        wrong += [f"{path.relative_to(repository)} imports {r}" for r in roots & (set(ROOMS) - MAY_IMPORT[room])]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_converters_and_runtimes_are_imported_inside_functions_only(repository: Path, room: str) -> None:
    wrong = []
    for path in sources(repository, room):
        module_level = ast.Module(
            body=[n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)],
            type_ignores=[],
        )
        roots = {name.split(".")[0] for name in imported_names(module_level)}
        wrong += [f"{path.relative_to(repository)} imports {r} at its top" for r in roots & set(GUARDED)]
    assert not wrong


@pytest.mark.parametrize("arguments", lines_of_help(), ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from udacisense.cli import run\n"
        f"code = run({arguments!r})\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "print('HEAVY', heavy, file=sys.stderr)\n"
        "sys.exit(code if not heavy else 99)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: udacisense" in done.stdout


@pytest.mark.parametrize("runner", ["onnxruntime", "android_x86_64"])
def test_a_worker_imports_its_own_runtime_alone(runner: str) -> None:
    # PyTorch would cost a second of every process of a sweep, and some 370 MB of the peak memory that it reports.
    code = (
        "import sys\n"
        f"import harness.worker, harness.runners.{runner}\n"
        "print([m for m in ('torch', 'torchvision', 'coremltools') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_building_tiny_imports_no_torchvision() -> None:
    code = (
        "import sys\n"
        "from udacisense.models import build_model, preset\n"
        "build_model(preset('tiny'))\n"
        "print('torchvision' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_pickle_is_loaded(repository: Path) -> None:
    for room in ROOMS:
        for path in sources(repository, room):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "pickle.load", "pickle.loads"}, f"{path}: {called}"
                if called in {"np.load", "numpy.load"}:
                    allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                    assert [ast.unparse(v) for v in allowed] == ["False"], f"{path}: np.load without allow_pickle=False"
