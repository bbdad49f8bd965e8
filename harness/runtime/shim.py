"""The stand-in for bionic: a ``libc.so`` that gives an Android library its C library on top of glibc.

What bionic lays out otherwise is written by hand (``native/bionic.c``, ``native/threads.c``). For every other function
the library asks for, a forwarder is generated: a plain jump through a table that is filled from glibc when the shim is
loaded. What cannot be given ends the process with the symbol's name when, and only when, it is called.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from udacisense.errors import InputError

#: The libraries of PyTorch Mobile's AAR, in the order of loading.
LIBRARIES = ("libc++_shared.so", "libfbjni.so", "libpytorch_jni_lite.so")
#: What the shim gives; the driver loads these first, so that no search path is changed.
SHIMS = ("libc.so", "libm.so", "libdl.so", "liblog.so", "libandroid.so")

#: Loaded after those: it loads the Android libraries bound to their own C++ library.
BINDER = "libbind.so"

_SOURCES = ("bionic.c", "threads.c")
# Objects of these functions differ in layout between bionic and glibc: forwarding would corrupt memory silently.
_LAYOUT_DIFFERS = re.compile(
    r"(pthread_(mutex|cond|rwlock|barrier|spin|attr|sigmask)|sem_|sig|_*(sig)?setjmp|_*(sig)?longjmp|f[gs]etpos|"
    r"regcomp|regexec|glob|fts_|getaddrinfo|statfs|fstatfs|statvfs|ftw|nftw)"
)
# Android's long double is IEEE binary128 on every 64-bit ABI; glibc's is 80 bits wide on x86-64.
_QUAD = {"strtold": "strtof128", "strtold_l": "strtof128_l", "wcstold": "wcstof128"}
_JUMP = {
    "x86_64": "endbr64\n mov shim_table@GOTPCREL(%rip), %r11\n jmp *{offset}(%r11)",
    "aarch64": "adrp x16, :got:shim_table\n ldr x16, [x16, :got_lo12:shim_table]\n ldr x17, [x16, #{offset}]\n br x17",
}


@dataclass(frozen=True, kw_only=True)
class Symbols:
    """How each symbol that a set of libraries asks for is given."""

    own: tuple[str, ...]  # written by hand
    forwarded: tuple[str, ...]  # glibc's
    refused: tuple[str, ...]  # neither: calling one ends the process with its name


def native_source(name: str) -> str:
    """Return the text of a file in ``native/``."""
    return (files("harness.runtime") / "native" / name).read_text(encoding="utf-8")


def sort_symbols(libraries: list[Path], *, readelf: str) -> Symbols:
    """Read what ``libraries`` ask of the system and say how each symbol is given.

    Raises:
        InputError: one of them is no ELF file, or asks for a variable, which cannot be forwarded.
    """
    needed: dict[str, str] = {}
    defined: set[str] = set()
    for path in libraries:
        for name, kind, is_defined in _dynamic_symbols(path, readelf):
            if is_defined:
                defined.add(name)
            else:
                needed[name] = kind
    by_hand = set(re.findall(r"BIONIC\((\w+)\)", "".join(native_source(n) for n in _SOURCES))) - {"name"}
    wanted = sorted(set(needed) - defined)
    variables = [n for n in wanted if needed[n] in ("OBJECT", "TLS") and n not in by_hand]
    if variables:
        raise InputError(f"The Android library asks for variables that the shim does not have: {', '.join(variables)}.")
    rest = [n for n in wanted if n not in by_hand]
    return Symbols(
        own=tuple(n for n in wanted if n in by_hand),
        forwarded=tuple(n for n in rest if not _LAYOUT_DIFFERS.match(n)),
        refused=tuple(n for n in rest if _LAYOUT_DIFFERS.match(n)),
    )


def _dynamic_symbols(path: Path, readelf: str) -> list[tuple[str, str, bool]]:
    """Return (name, type, is defined) of the dynamic symbols of one library."""
    listing = subprocess.run([readelf, "--dyn-syms", "-W", str(path)], capture_output=True, text=True, check=False)
    rows = [line.split() for line in listing.stdout.splitlines()]
    found = [r for r in rows if len(r) >= 8 and r[0].rstrip(":").isdigit()]
    # A weak C++ function is the library's own affair: it asks whether there is one, and no system has it.
    found = [r for r in found if not (r[6] == "UND" and r[4] == "WEAK" and r[7].startswith("_Z"))]
    symbols = [(r[7].split("@")[0], r[3], r[6] != "UND") for r in found]
    if listing.returncode or not symbols:
        raise InputError(f"{path.name} is not a shared library that readelf can read: {listing.stderr.strip()[:200]}.")
    return symbols


def forward_table(symbols: Symbols, *, target: str) -> str:
    """Return the C source of the table: at first every entry ends the process, naming its symbol."""
    names = symbols.forwarded + symbols.refused
    alias = _QUAD if target == "x86_64" else {}
    missing = "\n".join(
        f'static void missing_{i}(void) {{ shim_abort("the Android library called a function that this system '
        f'cannot give:", "{name}"); }}'
        for i, name in enumerate(names)
    )
    entries = ", ".join(f"(void *)missing_{i}" for i in range(len(names)))
    sources = ", ".join(f'"{alias.get(name, name)}"' for name in symbols.forwarded)
    return f"""#include "bionic.h"
#include <dlfcn.h>
{missing}
__attribute__((visibility("hidden"))) void *shim_table[] = {{{entries}, 0}};
static const char *const name[] = {{{sources}}};
__attribute__((constructor(101))) static void bind(void) {{
    void *from[] = {{dlopen("libc.so.6", RTLD_NOW), dlopen("libm.so.6", RTLD_NOW), RTLD_DEFAULT}};
    for (int i = 0; i < {len(symbols.forwarded)}; i++) {{
        void *found = 0;
        for (int k = 0; k < 3 && !found; k++) found = dlsym(from[k], name[i]);
        if (found) shim_table[i] = found;
    }}
}}
"""


def forward_jumps(symbols: Symbols, *, target: str) -> str:
    """Return the assembly of the forwarders, exported as ``name@LIBC``."""
    sign = "@" if target == "x86_64" else "%"
    jumps = [
        f".globl forward_{n}\n.type forward_{n}, {sign}function\nforward_{n}: {_JUMP[target].format(offset=8 * i)}\n"
        f".symver forward_{n}, {n}@LIBC"
        for i, n in enumerate(symbols.forwarded + symbols.refused)
    ]
    return ".text\n" + "\n".join(jumps) + f'\n.section .note.GNU-stack, "", {sign}progbits\n'


def build(libraries: Path, *, compiler: str, readelf: str, target: str, names: tuple[str, ...] = LIBRARIES) -> Symbols:
    """Write the shim's libraries into the folder ``libraries``, beside the Android library's own.

    Raises:
        InputError: a library is missing or the compiler failed (its first error is told).
    """
    absent = [n for n in names if not (libraries / n).is_file()]
    if absent:
        raise InputError(f"The AAR does not hold {', '.join(absent)}; it is not whole, or its layout is not known.")
    symbols = sort_symbols([libraries / n for n in names], readelf=readelf)
    sources = libraries / "src"
    sources.mkdir()
    for name in ("bionic.h", *_SOURCES, "guard_pad.c", "bind.c"):
        (sources / name).write_text(native_source(name), encoding="utf-8")
    exports = "".join(f'__asm__(".symver bionic_{n}, {n}@LIBC");\n' for n in symbols.own)
    whole = "".join(f'#include "{name}"\n' for name in _SOURCES)
    (sources / "own.c").write_text(whole + exports, encoding="utf-8")
    (sources / "table.c").write_text(forward_table(symbols, target=target), encoding="utf-8")
    (sources / "jumps.S").write_text(forward_jumps(symbols, target=target), encoding="utf-8")
    (sources / "versions.map").write_text("LIBC { local: bionic_*; forward_*; shim_*; };\n", encoding="utf-8")
    (sources / "empty.c").write_text("", encoding="utf-8")
    shared = [compiler, "-shared", "-fPIC", "-O2", "-fno-builtin"]
    versions = "-Wl,--version-script=versions.map"
    compile_c(
        [
            *shared,
            "own.c",
            "table.c",
            "jumps.S",
            versions,
            "-Wl,-soname,libc.so",
            "-Wl,-z,defs",
            "-lm",
            "-o",
            "../libc.so",
        ],
        sources,
    )
    for name in SHIMS[1:]:
        # The library asks for version LIBC of libm and libdl; the symbols themselves all stand in libc.so.
        compile_c([*shared, "empty.c", versions, f"-Wl,-soname,{name}", "-o", f"../{name}"], sources)
    compile_c([*shared, "-ftls-model=initial-exec", "guard_pad.c", "-o", "../libguard_pad.so"], sources)
    listed = ", ".join(f'"{name}"' for name in names)
    compile_c([*shared, f"-DLIBRARIES={listed}", "bind.c", "-o", f"../{BINDER}"], sources)
    return symbols


def compile_c(command: list[str], folder: Path) -> None:
    """Run a compiler in a folder.

    Raises:
        InputError: it failed; its first error is told.
    """
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if "error" in line] or ran.stderr.splitlines() or ["no word"]
        raise InputError(f"{command[0]} failed while building the shim: {errors[0][:300]}.")
