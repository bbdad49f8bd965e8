"""What can be set up: the runtimes, their pinned artifacts, what they cost, and the host's tools they need."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporters.toolchain.setup import TOOLCHAINS
from udacisense.base.files import cache_folder
from udacisense.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file of a Maven repository, or a wheel. Without a pin (``sha256`` None) the source's checksum stands alone."""

    group: str  # of a wheel: Python and platform
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
        """The file's name in any repository."""
        tags = f"-{self.group}" if self.packaging == "whl" else ""
        return f"{self.name}-{self.version}{tags}.{self.packaging}"


@dataclass(frozen=True, kw_only=True)
class Library:
    """What a runtime runs: an artifact of which any release may be asked for."""

    group: str
    name: str
    packaging: str
    default_version: str
    pins: Mapping[str, str]  # SHA-256 by version
    natives: tuple[str, ...]  # its shared libraries, in the order of loading

    def artifact(self, version: str) -> Artifact:
        """Return the file of a release.

        Raises:
            InputError: the version is not written as numbers with dots.
        """
        if not re.fullmatch(r"\d+(\.\d+){1,3}", version):
            raise InputError(f"The library version {version!r} is not a version; give one like {self.default_version}.")
        return Artifact(
            group=self.group,
            name=self.name,
            version=version,
            packaging=self.packaging,
            sha256=self.pins.get(version),
        )


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program of the host, and the Debian packages that bring it."""

    name: str
    packages: str


@dataclass(frozen=True, kw_only=True)
class Bionic:
    """How the stand-in for Android's C library is built."""

    target: str  # gcc's
    compiler: str
    readelf: str


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One row of :data:`RUNTIMES`."""

    name: str
    library: Library
    formats: tuple[str, ...]  # that it opens; the first proves it
    engine: str | None = None  # the only quantised engine that the library is built with
    abi: str  # the library's name of the architecture
    driver: str  # what answers for it: source of a Java class, or of a program in C++
    jars: tuple[Artifact, ...] = ()  # what its Java half needs besides
    bionic: Bionic | None = None  # None: the library was built for glibc
    emulator: str | None = None
    tools: tuple[Tool, ...]
    disk_bytes: int  # when it is set up, downloads included; as measured
    seconds: float  # rounded up from what was measured on 2 busy cores with the files coming at some 10 MB/s

    @property
    def is_java(self) -> bool:
        """Whether a JVM runs it."""
        return self.driver.endswith(".java")


PYTORCH = Library(
    group="org.pytorch",
    name="pytorch_android_lite",
    packaging="aar",
    default_version="1.12.2",
    pins={
        "1.12.2": "ca58bf74952e50c1ead7d058462680c6b6306877f55e0d612cba0ed8725c95c2",
        # It fails its self-test: it reads bytecode of versions 3 to 5, and torch 2.7.0 writes 8.
        "1.9.0": "df8ec0d353b1461f3548f8f651563a03c5d57acf315c3a9b550232b5234b4cc5",
    },
    natives=("libc++_shared.so", "libfbjni.so", "libpytorch_jni_lite.so"),
)

ONNXRUNTIME = Library(
    group="com.microsoft.onnxruntime",
    name="onnxruntime",
    packaging="jar",
    default_version="1.23.2",
    pins={"1.23.2": "e0ab4a1af57d2da09097202f2dfd691e390c82e81183314788ccde4cf7c3cc38"},
    natives=("libonnxruntime.so", "libonnxruntime4j_jni.so"),
)

TENSORFLOW_LITE = Library(
    group="org.tensorflow",
    name="tensorflow-lite",
    packaging="aar",
    default_version="2.16.1",  # the last of this name; its successor is LiteRT
    pins={"2.16.1": "34b065817e294e7dd3569504e8b9454938ceae453b6a459da54d5f6e45d3c94e"},
    natives=("libtensorflowlite_jni.so",),
)

TENSORFLOW_LITE_API = Artifact(
    group="org.tensorflow",
    name="tensorflow-lite-api",
    version="2.16.1",
    packaging="aar",
    sha256="885b95bc9e47a4aa5cf8e71523aed9b05e397cfef1ea09773f13fea8b649fcee",
)

# ExecuTorch's Android library is in no public repository; its wheel has the same kernels, as libraries for C++.
EXECUTORCH = Library(
    group="cp311-cp311-manylinux_2_28_aarch64",
    name="executorch",
    packaging="whl",
    default_version="1.5.1",
    pins={"1.5.1": "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a"},
    natives=(
        "libexecutorch.so",
        "libexecutorch_threadpool.so",
        "libexecutorch_backend_xnnpack.so",
        "libexecutorch_kernels_optimized.so",
        "libexecutorch_kernels_quantized.so",
    ),
)

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

_BUILDING = (Tool(name="javac", packages="openjdk-17-jdk-headless"), Tool(name="gcc", packages="gcc libc6-dev"))
_READELF = Tool(name="readelf", packages="binutils")
_X86_64 = Bionic(target="x86_64", compiler="gcc", readelf="readelf")
_ARM64 = Bionic(target="aarch64", compiler="aarch64-linux-gnu-gcc", readelf="aarch64-linux-gnu-readelf")
_CROSS = Tool(name="aarch64-linux-gnu-gcc", packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
_CROSS_CXX = Tool(name="aarch64-linux-gnu-g++", packages="g++-aarch64-linux-gnu")
_EMULATING = (Tool(name="qemu-aarch64", packages="qemu-user"), Tool(name="dpkg-deb", packages="dpkg"))

RUNTIMES: dict[str, Runtime] = {
    row.name: row
    for row in (
        Runtime(
            name="android-x86_64",
            library=PYTORCH,
            formats=("ptl",),
            engine="qnnpack",
            abi="x86_64",
            driver="Driver.java",
            jars=JARS,
            bionic=_X86_64,
            tools=(*_BUILDING, _READELF),
            disk_bytes=115_000_000,
            seconds=20,
        ),
        Runtime(
            name="android-arm64",
            library=PYTORCH,
            formats=("ptl",),
            engine="qnnpack",
            abi="arm64-v8a",
            driver="Driver.java",
            jars=JARS,
            bionic=_ARM64,
            emulator="qemu-aarch64",
            tools=(*_BUILDING, _READELF, _CROSS, *_EMULATING),
            disk_bytes=400_000_000,
            seconds=60,
        ),
        Runtime(
            name="litert-android-x86_64",
            library=TENSORFLOW_LITE,
            formats=("tflite",),
            abi="x86_64",
            driver="TfliteDriver.java",
            jars=(TENSORFLOW_LITE_API,),
            bionic=_X86_64,
            tools=(*_BUILDING, _READELF),
            disk_bytes=25_000_000,
            seconds=20,
        ),
        Runtime(
            name="litert-android-arm64",
            library=TENSORFLOW_LITE,
            formats=("tflite",),
            abi="arm64-v8a",
            driver="TfliteDriver.java",
            jars=(TENSORFLOW_LITE_API,),
            bionic=_ARM64,
            emulator="qemu-aarch64",
            tools=(*_BUILDING, _READELF, _CROSS, *_EMULATING),
            disk_bytes=400_000_000,
            seconds=60,
        ),
        # Only for counting ARM instructions: the libraries' builds for Linux on arm64, whose kernels are the phone's.
        Runtime(
            name="onnxruntime-arm64",
            library=ONNXRUNTIME,
            formats=("onnx", "ort"),
            abi="aarch64",
            driver="OnnxDriver.java",
            emulator="qemu-aarch64",
            tools=(*_BUILDING, *_EMULATING),
            disk_bytes=400_000_000,
            seconds=60,
        ),
        Runtime(
            name="executorch-arm64",
            library=EXECUTORCH,
            formats=("executorch",),
            abi="aarch64",
            driver="PteDriver.cpp",
            emulator="qemu-aarch64",
            tools=(_BUILDING[1], _CROSS_CXX, *_EMULATING),
            disk_bytes=100_000_000,
            seconds=60,
        ),
    )
}


def runtime(name: str) -> Runtime:
    """Return a row of :data:`RUNTIMES`.

    Raises:
        InputError: there is no such row.
    """
    if name not in RUNTIMES:
        known = (*RUNTIMES, *TOOLCHAINS)  # what `runtime` takes
        raise InputError(f"There is no runtime {name!r}; there are {', '.join(known)}.{did_you_mean(name, known)}")
    return RUNTIMES[name]


def cost(name: str) -> tuple[int, float]:
    """Return what setting a runtime up takes: (bytes of disk, seconds), as measured once; see the row."""
    row = runtime(name)
    return row.disk_bytes, row.seconds


def cache_root() -> Path:
    """Return the folder of the runtimes, in the cache folder."""
    return cache_folder() / "runtimes"


def wrong_host() -> str | None:
    """Return why this kind of machine cannot run any of these runtimes, or None."""
    if platform.system() == "Linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc":
        return None
    return f"the phone's runtimes need Linux with glibc on x86_64; this is {platform.system()} on {platform.machine()}"


def missing_tools(name: str, *, offline: bool = False) -> list[tuple[str, str]]:
    """Return the programs that setting up ``name`` needs and that are not on PATH: (program, install command).

    ``offline`` leaves out the ones that only fetch: Maven, and apt for arm64's Java runtime and C libraries.
    """
    row = runtime(name)
    tools = list(row.tools)
    if not offline:
        if row.is_java:
            tools.append(Tool(name="mvn", packages="maven"))
        if row.emulator:
            tools.append(Tool(name="apt-get", packages="apt"))
    missing = [(tool.name, f"sudo apt-get install {tool.packages}") for tool in tools if not shutil.which(tool.name)]
    if row.is_java and shutil.which("javac") and _java_release() < 17:
        missing.append(("javac 17 or newer", "sudo apt-get install openjdk-17-jdk-headless"))
    return missing


def _java_release() -> int:
    words = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=False)  # noqa: S607
    found = re.search(r"javac (\d+)", words.stdout + words.stderr)
    return int(found.group(1)) if found else 0
