"""The stand-in for bionic: what it forwards, what it refuses, and its threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from harness.runtime import shim
from udacisense.errors import InputError

HERE = Path(__file__).parent
NATIVE = Path(str(files("harness.runtime") / "native"))

ASKER = """
extern unsigned long strlen(const char *);
extern long strtol(const char *, char **, int);
extern int made_up_by_a_newer_android(void);
extern int sem_init(void *, int, unsigned);
extern int printf(const char *, ...);
extern long sysconf(int);
unsigned long ask_strlen(const char *text) { return strlen(text); }
long ask_pagesize(void) { return sysconf(0x27); }
int ask_printf(void) { return printf("spoken %d\\n", 7); }
int ask_missing(void) { return made_up_by_a_newer_android(); }
int ask_semaphore(void) { return sem_init(0, 0, 0); }
"""
NEEDED = ("strlen", "made_up_by_a_newer_android", "sem_init", "printf", "sysconf")


def _need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not on PATH")


def _gcc(folder: Path, *words: str) -> None:
    subprocess.run(["gcc", *words], cwd=folder, check=True, capture_output=True)  # noqa: S607


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """A folder like the AAR's, whose last library asks for symbols of every kind."""
    _need("gcc", "readelf")
    stub = "\n".join(f"void {name}(void) {{}}" for name in NEEDED)
    (tmp_path / "stub.c").write_text(stub)
    (tmp_path / "v.map").write_text("LIBC { global: *; };")
    (tmp_path / "asker.c").write_text(ASKER)
    (tmp_path / "other.c").write_text("int other;")
    plain = ("-shared", "-fPIC", "-nostdlib", "-fno-builtin")
    _gcc(tmp_path, *plain, "stub.c", "-Wl,--version-script=v.map", "-Wl,-soname,libc.so", "-o", "stub.so")
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in shim.LIBRARIES[:-1]:
        _gcc(tmp_path, *plain, "other.c", "-o", f"lib/{name}")
    _gcc(tmp_path, *plain, "asker.c", "stub.so", "-o", f"lib/{shim.LIBRARIES[-1]}")
    return folder


def _call(folder: Path, function: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Load the shim and the asking library as the driver does, in a process of its own, and call one function."""
    code = (
        "import ctypes\n"
        f"for name in {[*shim.SHIMS, shim.LIBRARIES[-1]]!r}:\n"
        f"    library = ctypes.CDLL({str(folder)!r} + '/' + name)\n"
        f"print('answer', library.{function}({', '.join(arguments)}))\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def _built(folder: Path) -> shim.Symbols:
    return shim.build(folder, compiler="gcc", readelf="readelf", target="x86_64")


def test_symbols_are_given_by_hand_forwarded_or_refused(libraries: Path) -> None:
    symbols = _built(libraries)
    assert symbols.own == ("printf", "sysconf")
    assert symbols.forwarded == ("made_up_by_a_newer_android", "strlen")
    assert symbols.refused == ("sem_init",)  # bionic's semaphore has another size than glibc's


def test_a_forwarded_function_answers(libraries: Path) -> None:
    _built(libraries)
    assert _call(libraries, "ask_strlen", "b'seven..'").stdout == "answer 7\n"


def test_bionic_numbers_are_translated(libraries: Path) -> None:
    _built(libraries)
    assert _call(libraries, "ask_pagesize").stdout == f"answer {os.sysconf('SC_PAGE_SIZE')}\n"


def test_standard_output_stays_clean_for_answers(libraries: Path) -> None:
    _built(libraries)
    ran = _call(libraries, "ask_printf")
    assert (ran.stdout, ran.stderr) == ("answer 9\n", "spoken 7\n")


@pytest.mark.parametrize(
    ("function", "symbol"), [("ask_missing", "made_up_by_a_newer_android"), ("ask_semaphore", "sem_init")]
)
def test_what_cannot_be_given_is_named_when_it_is_called(libraries: Path, function: str, symbol: str) -> None:
    _built(libraries)
    ran = _call(libraries, function)
    assert ran.returncode == -6  # aborted, and did not jump to zero
    assert symbol in ran.stderr


def test_a_variable_cannot_be_forwarded(libraries: Path) -> None:
    (libraries / "stub.c").write_text("int new_variable = 1;")
    (libraries / "asker.c").write_text("extern int new_variable; int ask(void) { return new_variable; }")
    _gcc(libraries, "-shared", "-fPIC", "-nostdlib", "stub.c", "-o", "stub.so")
    _gcc(libraries, "-shared", "-fPIC", "-nostdlib", "asker.c", "stub.so", "-o", shim.LIBRARIES[-1])
    with pytest.raises(InputError, match="new_variable"):
        _built(libraries)


def test_a_library_that_is_no_library_is_refused(libraries: Path) -> None:
    (libraries / shim.LIBRARIES[-1]).write_bytes(b"not ELF")
    with pytest.raises(InputError, match=shim.LIBRARIES[-1]):
        _built(libraries)


def test_a_missing_library_is_named(libraries: Path) -> None:
    (libraries / shim.LIBRARIES[1]).unlink()
    with pytest.raises(InputError, match=shim.LIBRARIES[1]):
        _built(libraries)


STRESS = [str(HERE / "stress.c"), str(NATIVE / "threads.c"), "-O2", "-I", str(NATIVE), "-pthread"]


def test_mutex_and_condition_hold_under_stress(tmp_path: Path) -> None:
    _need("gcc")
    _gcc(tmp_path, *STRESS, "-o", "stress")
    ran = subprocess.run([tmp_path / "stress", "20000"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.android
def test_mutex_and_condition_hold_under_stress_on_arm64(tmp_path: Path) -> None:
    _need("aarch64-linux-gnu-gcc", "qemu-aarch64")
    program = tmp_path / "stress"
    subprocess.run(["aarch64-linux-gnu-gcc", "-static", *STRESS, "-o", program], check=True)  # noqa: S607
    ran = subprocess.run(["qemu-aarch64", program, "3000"], capture_output=True, text=True, check=False)  # noqa: S607
    assert (ran.returncode, ran.stderr) == (0, "")
