"""The rules of the house: imports go one way, folders stay small, heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import graphlib
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from udacisense.cli.main import COMMANDS

ROOMS = ("udacisense", "exporters", "harness")
MAY_IMPORT = {"udacisense": {"udacisense"}, "exporters": {"udacisense", "exporters"}, "harness": set(ROOMS)}
GUARDED = ("onnx", "onnxruntime", "coremltools", "executorch")
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "coremltools", "matplotlib", "scipy", "numpy")
GROUPS = ("data", "device", "runtime")
MOST_ENTRIES = 12
MOST_LINES_OF_A_FUNCTION = 50
MOST_LINES_OF_A_FILE = 400
FOLDERS_OF_COMMANDS = ("exporters/preflight", "harness/bench", "harness/gate", "harness/verify")
# Their modules serve processes that have no use for PyTorch; those that hand on networks or batches need it anyway.
LIGHT = (
    "udacisense",
    "udacisense.base",
    "udacisense.measure",
    "exporters",
    "exporters.bundle",
    "harness",
    "harness.cell",
)


def lines_of_help() -> list[list[str]]:
    groups = {name: importlib.import_module(f"udacisense.cli.{name}").command.commands for name in GROUPS}
    within = [[group, name, "--help"] for group, commands in groups.items() for name in commands]
    return [["--help"], *([name, "--help"] for name in COMMANDS), *within]


def folders(repository: Path, room: str) -> Iterator[tuple[Path, list[str]]]:
    """Every folder with its entries, without what is hidden or was made by running."""
    for folder, inner, names in os.walk(repository / room):
        inner[:] = [name for name in inner if not name.startswith((".", "__pycache__"))]
        yield Path(folder), [*inner, *(name for name in names if not name.startswith("."))]


def sources(repository: Path, room: str) -> list[Path]:
    found = sorted(folder / name for folder, names in folders(repository, room) for name in names if name[-3:] == ".py")
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


def modules(repository: Path) -> dict[str, Path]:
    """Dotted name → file, of every module of the three rooms."""
    found = {}
    for room in ROOMS:
        for path in sources(repository, room):
            parts = path.relative_to(repository).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(repository: Path) -> dict[str, set[str]]:
    """Module → modules that it imports, at its top, inside a function or for types only."""
    known = modules(repository)
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        from_packages = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        graph[name] = ((imported_names(tree) | from_packages) & set(known)) - {name}
    return graph


def shelf(name: str, path: Path) -> str:
    """The folder right below a room that a module stands in; a file beside these folders stands for itself."""
    parts = name.split(".")
    folder = parts if path.name == "__init__.py" else parts[:-1]
    return ".".join(folder[:2]) if len(folder) > 1 else name


def a_circle(graph: dict[str, set[str]]) -> tuple[str, ...]:
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as exc:
        return tuple(exc.args[1])
    return ()


def test_the_graph_of_imports_is_not_empty(repository: Path) -> None:
    graph = arrows(repository)
    assert "udacisense.base.records" in graph["harness.verify.run"]
    assert a_circle({"a": {"b"}, "b": {"a"}}) == ("a", "b", "a")


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction(repository: Path, room: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in arrows(repository).items()
        if name.split(".")[0] == room and not name.startswith("udacisense.cli")
        for other in others
        if other.split(".")[0] not in MAY_IMPORT[room]
    ]
    assert not wrong


def test_modules_import_in_no_circle(repository: Path) -> None:
    assert not a_circle(arrows(repository))


@pytest.mark.parametrize("room", ROOMS)
def test_the_folders_of_a_room_stand_on_floors(repository: Path, room: str) -> None:
    known = modules(repository)
    floors: dict[str, set[str]] = {}
    for name, others in arrows(repository).items():
        if name.split(".")[0] != room:
            continue
        here = shelf(name, known[name])
        within = {shelf(o, known[o]) for o in others if o.split(".")[0] == room}
        floors.setdefault(here, set()).update(within - {here})
    assert not a_circle(floors)


def test_no_folder_has_more_than_twelve_entries(repository: Path) -> None:
    apart = {repository / name for name in ("udacisense/cli", "tests/helpers", "tests/campaigns")}
    crowded = {
        str(folder.relative_to(repository)): len(names)
        for room in (*ROOMS, "tests")
        for folder, names in folders(repository, room)
        if len(names) > MOST_ENTRIES and folder not in apart
    }
    assert not crowded


@pytest.mark.parametrize("command", FOLDERS_OF_COMMANDS)
def test_the_door_of_a_commands_folder_is_run(repository: Path, command: str) -> None:
    assert (repository / command / "run.py").is_file()


def test_an_init_holds_a_docstring_and_names_handed_on(repository: Path) -> None:
    wrong = []
    for path in modules(repository).values():
        if path.name != "__init__.py":
            continue
        body = ast.parse(path.read_text()).body
        is_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        allowed = [
            n
            for n in body[1:]
            if isinstance(n, ast.ImportFrom) or ast.unparse(n).startswith(("__all__ =", "__version__ ="))
        ]
        if not is_docstring or len(allowed) != len(body) - 1:
            wrong.append(str(path.relative_to(repository)))
    assert not wrong


@pytest.mark.parametrize("package", LIGHT)
def test_a_package_imports_no_torch_by_the_way(package: str) -> None:
    code = f"import sys, {package}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


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
        "from udacisense.cli.main import run\n"
        f"code = run({arguments!r})\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "print('HEAVY', heavy, file=sys.stderr)\n"
        "sys.exit(code if not heavy else 99)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: udacisense" in done.stdout


@pytest.mark.parametrize("runner", ["onnxruntime", "android"])
def test_a_worker_imports_its_own_runtime_alone(runner: str) -> None:
    # PyTorch would cost a second of every process of a sweep, and some 370 MB of the peak memory that it reports.
    code = (
        "import sys\n"
        f"import harness.cell.worker, harness.runners.{runner}\n"
        "print([m for m in ('torch', 'torchvision', 'coremltools') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_building_tiny_imports_no_torchvision() -> None:
    code = (
        "import sys\n"
        "from udacisense.models.build import build_model, preset\n"
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
                assert called not in {"pickle.load", "pickle.loads"}, f"{path}: {called}"
                if called == "torch.load":
                    safe = [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"]
                    assert safe == ["True"], f"{path}: torch.load without weights_only=True"
                if called in {"np.load", "numpy.load"}:
                    allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                    assert [ast.unparse(v) for v in allowed] == ["False"], f"{path}: np.load without allow_pickle=False"


def test_functions_fit_a_page_and_files_eight(repository: Path) -> None:
    long = []
    for room in (*ROOMS, "tests"):
        for path in sources(repository, room):
            text, name = path.read_text(encoding="utf-8"), str(path.relative_to(repository))
            if (n_lines := text.count("\n")) > MOST_LINES_OF_A_FILE:
                long.append(f"{name} has {n_lines} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert node.end_lineno is not None
                    if (n_lines := node.end_lineno - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION:
                        long.append(f"{name}: {node.name} has {n_lines} lines")
    assert not long
