"""What can be set up: the runtimes, their pinned artifacts, what they cost, and the host's tools they need."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from udacisense.errors import InputError, did_you_mean

DEFAULT_LIBRARY_VERSION = "1.12.2"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file of a Maven repository. Without a pin (``sha256`` None) Maven's own checksum stands alone."""

    group: str
    name: str
    version: str
    packaging: str
    sha256: str | None

    @property
    def coordinates(self) -> str:
        """``group:name:version:packaging``."""
        return f"{self.group}:{self.name}:{self.version}:{self.packaging}"

    @property
    def file_name(self) -> str:
        """The file's name in any Maven repository."""
        return f"{self.name}-{self.version}.{self.packaging}"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program of the host, and the Debian packages that bring it."""

    name: str
    packages: str


@dataclass(frozen=True, kw_only=True)
class AndroidRuntime:
    """One row of :data:`RUNTIMES`."""

    name: str
    abi: str  # Android's name of the architecture
    target: str  # gcc's
    compiler: str
    readelf: str
    emulator: str | None
    tools: tuple[Tool, ...]
    disk_bytes: int  # when it is set up, downloads included; as measured
    seconds: float  # rounded up from what was measured on 2 busy cores with the files coming at some 10 MB/s


_BOTH = (
    Tool(name="javac", packages="openjdk-17-jdk-headless"),
    Tool(name="gcc", packages="gcc libc6-dev"),
    Tool(name="readelf", packages="binutils"),
)

RUNTIMES: dict[str, AndroidRuntime] = {
    row.name: row
    for row in (
        AndroidRuntime(
            name="android-x86_64",
            abi="x86_64",
            target="x86_64",
            compiler="gcc",
            readelf="readelf",
            emulator=None,
            tools=_BOTH,
            disk_bytes=115_000_000,
            seconds=20,
        ),
        AndroidRuntime(
            name="android-arm64",
            abi="arm64-v8a",
            target="aarch64",
            compiler="aarch64-linux-gnu-gcc",
            readelf="aarch64-linux-gnu-readelf",
            emulator="qemu-aarch64",
            tools=(
                *_BOTH,
                Tool(name="aarch64-linux-gnu-gcc", packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
                Tool(name="qemu-aarch64", packages="qemu-user"),
                Tool(name="dpkg-deb", packages="dpkg"),
            ),
            disk_bytes=400_000_000,
            seconds=60,
        ),
    )
}

_LIBRARY_PINS = {
    "1.12.2": "ca58bf74952e50c1ead7d058462680c6b6306877f55e0d612cba0ed8725c95c2",
    # It fails its self-test, and so cannot be set up: it reads bytecode of versions 3 to 5, and torch 2.7.0 writes 8.
    "1.9.0": "df8ec0d353b1461f3548f8f651563a03c5d57acf315c3a9b550232b5234b4cc5",
}

JARS = (
    Artifact(
        group="com.facebook.fbjni",
        name="fbjni-java-only",
        version="0.2.2",
        packaging="jar",
        sha256="7904e1c270fc2efafa7232001fbd5adb0521f624ee3a6e548d1efbcb5f30bcdf",
    ),
    Artifact(
        group="com.facebook.soloader",
        name="nativeloader",
        version="0.10.5",
        packaging="jar",
        sha256="971ded86009c0ac56fb2275e128f852e7dcbc41a40cd799688f8a1aebde5195d",
    ),
)


def library(version: str) -> Artifact:
    """Return the Android library of a version.

    Raises:
        InputError: the version is not written as numbers with dots.
    """
    if not re.fullmatch(r"\d+(\.\d+){1,3}", version):
        raise InputError(f"The library version {version!r} is not a version; give one like {DEFAULT_LIBRARY_VERSION}.")
    return Artifact(
        group="org.pytorch",
        name="pytorch_android_lite",
        version=version,
        packaging="aar",
        sha256=_LIBRARY_PINS.get(version),
    )


def runtime(name: str) -> AndroidRuntime:
    """Return a row of :data:`RUNTIMES`.

    Raises:
        InputError: there is no such row.
    """
    if name not in RUNTIMES:
        hint = did_you_mean(name, RUNTIMES)
        raise InputError(f"There is no runtime {name!r}; there are {', '.join(RUNTIMES)}.{hint}")
    return RUNTIMES[name]


def cost(name: str) -> tuple[int, float]:
    """Return what setting a runtime up takes: (bytes of disk, seconds), as measured once; see the row."""
    row = runtime(name)
    return row.disk_bytes, row.seconds


def cache_root() -> Path:
    """Return the folder of the runtimes: ``UDACISENSE_CACHE``, or ``udacisense`` in the user's cache folder."""
    chosen = os.environ.get("UDACISENSE_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve() / "runtimes"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser().resolve() / "udacisense" / "runtimes"


def wrong_host() -> str | None:
    """Return why this kind of machine cannot run the Android library at all, or None."""
    if platform.system() == "Linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc":
        return None
    return f"the Android runtimes need Linux with glibc on x86_64; this is {platform.system()} on {platform.machine()}"


def missing_tools(name: str, *, offline: bool = False) -> list[tuple[str, str]]:
    """Return the programs that setting up ``name`` needs and that are not on PATH: (program, install command).

    ``offline`` leaves out the ones that only fetch: Maven, and apt for the arm64 Java runtime.
    """
    row = runtime(name)
    tools = list(row.tools)
    if not offline:
        tools.append(Tool(name="mvn", packages="maven"))
        if row.emulator:
            tools.append(Tool(name="apt-get", packages="apt"))
    missing = [(tool.name, f"sudo apt-get install {tool.packages}") for tool in tools if not shutil.which(tool.name)]
    if shutil.which("javac") and _java_release() < 17:
        missing.append(("javac 17 or newer", "sudo apt-get install openjdk-17-jdk-headless"))
    return missing


def _java_release() -> int:
    words = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=False)  # noqa: S607
    found = re.search(r"javac (\d+)", words.stdout + words.stderr)
    return int(found.group(1)) if found else 0
