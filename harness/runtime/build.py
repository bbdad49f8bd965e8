"""What a runtime is made of, put together in a folder and proved there by a small file."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.formats.contract import SUFFIXES
from harness.runtime import fetch, shim
from harness.runtime.catalogue import Artifact, Runtime, cache_root
from harness.runtime.session import PROGRAM, LibrarySession, plugin_argument
from udacisense.base.files import locked, remove, sha256_file
from udacisense.errors import InputError, UdacisenseError

OnProgress = Callable[[float, str], None]  # (fraction done, what is being done)

_WRITTEN = {"tflite": "small.tflite", "executorch": "small.pte"}
_SELF_TEST_TOLERANCE = 1e-4
_SELF_TEST_TIMEOUT_S = 180.0
# qemu refuses a plugin of another interface version than its own; the few functions used are in all of these.
_PLUGIN_VERSIONS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What :func:`make` made."""

    library_sha256: str  # of the artifact that holds the library
    symbols: shim.Symbols  # of the stand-in for bionic; none where there is no need of one
    self_test_max_abs: float
    counts_instructions: bool


def make(row: Runtime, folder: Path, artifact: Artifact, *, offline_dir: Path | None, on_progress: OnProgress) -> Built:
    """Fill the new folder ``folder`` with a runtime: fetch, unpack, compile, and run a small file.

    Raises:
        InputError: a file cannot be had or is not whole, a compiler failed, or the library answers otherwise.
    """
    libraries = folder / "lib"
    libraries.mkdir(parents=True)
    with _alone(cache_root() / "downloads") as downloads:
        digest = _fetch(row, folder, artifact, downloads, offline_dir=offline_dir, on_progress=on_progress)
    on_progress(0.7, "building the worker")
    symbols = shim.Symbols(own=(), forwarded=(), refused=())
    if (how := row.bionic) is not None:
        symbols = shim.build(
            libraries, compiler=how.compiler, readelf=how.readelf, target=how.target, names=row.library.natives
        )
        remove(libraries / "src")
    _compile_driver(row, folder)
    on_progress(0.8, "proving it with a small file")
    max_abs = _self_test(row, folder, artifact.version)
    counts = row.emulator is not None and _build_counter(row.emulator, folder)
    return Built(library_sha256=digest, symbols=symbols, self_test_max_abs=max_abs, counts_instructions=counts)


def driver_sources(row: Runtime) -> tuple[str, ...]:
    """Return the names of the files that a runtime's driver is compiled from."""
    return (row.driver, "Worker.java") if row.is_java else (row.driver,)


@contextmanager
def _alone(downloads: Path) -> Iterator[Path]:
    """Keep other set-ups from the folder of the downloads, where apt's state is one for all."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(downloads))
        except InputError as exc:
            raise InputError(
                f"Another `udacisense runtime add` fetches into {downloads} now; wait for its end and run this again."
            ) from exc
        yield downloads


def _fetch(
    row: Runtime,
    folder: Path,
    artifact: Artifact,
    downloads: Path,
    *,
    offline_dir: Path | None,
    on_progress: OnProgress,
) -> str:
    """Fill ``lib``, ``classes`` and for arm64 ``jre``; return the SHA-256 of the library's artifact."""
    on_progress(0.0, f"getting {artifact.file_name}")
    archive = fetch.fetch_artifact(artifact, downloads, offline_dir=offline_dir)
    classes = folder / "classes"
    classes.mkdir()
    for jar in row.jars:
        on_progress(0.3, f"getting {jar.file_name}")
        _keep_classes(fetch.fetch_artifact(jar, downloads, offline_dir=offline_dir), jar, classes)
    _unpack_library(archive, row, folder)
    if row.emulator:
        on_progress(
            0.35, "getting arm64's Java runtime and C libraries" if row.is_java else "getting arm64's C libraries"
        )
        packages = fetch.fetch_packages(downloads, with_java=row.is_java, offline_dir=offline_dir)
        on_progress(0.6, "unpacking them")
        fetch.unpack_packages(packages, folder / "jre")
        if row.is_java:
            fetch.find_java(folder / "jre")
    return sha256_file(archive)


def _keep_classes(path: Path, jar: Artifact, classes: Path) -> None:
    if jar.packaging == "jar":
        shutil.copyfile(path, classes / jar.file_name)
        return
    with zipfile.ZipFile(path) as archive:
        (classes / f"{jar.name}.jar").write_bytes(archive.read("classes.jar"))


def _unpack_library(path: Path, row: Runtime, folder: Path) -> None:
    unpack = {"aar": _unpack_android, "jar": _unpack_onnxruntime, "whl": _unpack_wheel}[row.library.packaging]
    try:
        with zipfile.ZipFile(path) as archive:
            unpack(archive, row, folder)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as exc:
        remove(path)
        raise InputError(
            f"{path.name} is not a whole {row.library.packaging.upper()} with the ABI {row.abi}: {exc}. "
            "Run again to get it anew."
        ) from exc


def _unpack_android(archive: zipfile.ZipFile, row: Runtime, folder: Path) -> None:
    (folder / "classes" / f"{row.library.name}.jar").write_bytes(archive.read("classes.jar"))
    for name in row.library.natives:
        (folder / "lib" / name).write_bytes(archive.read(f"jni/{row.abi}/{name}"))


def _unpack_onnxruntime(archive: zipfile.ZipFile, row: Runtime, folder: Path) -> None:
    # The jar holds the libraries of five systems, 75 MB: its classes and one system's libraries are kept.
    with zipfile.ZipFile(folder / "classes" / f"{row.library.name}.jar", "w") as kept:
        for entry in archive.infolist():
            if entry.filename.endswith(".class"):
                kept.writestr(entry, archive.read(entry))
    for name in row.library.natives:
        (folder / "lib" / name).write_bytes(archive.read(f"ai/onnxruntime/native/linux-{row.abi}/{name}"))


def _unpack_wheel(archive: zipfile.ZipFile, row: Runtime, folder: Path) -> None:
    for name in row.library.natives:
        (folder / "lib" / name).write_bytes(archive.read(f"{row.library.name}/lib/{name}"))
    headers = f"{row.library.name}/include/"
    archive.extractall(folder, [name for name in archive.namelist() if name.startswith(headers)])


def _compile_program(row: Runtime, folder: Path) -> None:
    # What a program compiles with: share/cmake/executorch-config.cmake of the package.
    headers = folder / row.library.name / "include"
    source = folder / "lib" / row.driver
    source.write_text(shim.native_source(row.driver), encoding="utf-8")
    options = ["-std=c++17", "-O1", "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED"]
    options += ["-I", str(headers), "-I", str(headers / "executorch/runtime/core/portable_type/c10")]
    # Kernels register themselves as they are loaded: nothing of theirs is called by name.
    linked = ["-Wl,--no-as-needed", *row.library.natives, "-Wl,-rpath,$ORIGIN", "-o", PROGRAM]
    shim.compile_c(["aarch64-linux-gnu-g++", *options, row.driver, *linked], folder / "lib")
    source.unlink()
    remove(folder / row.library.name)


def _compile_driver(row: Runtime, folder: Path) -> None:
    if not row.is_java:
        _compile_program(row, folder)
        return
    classes = folder / "classes"
    path = ":".join(str(p) for p in classes.glob("*.jar"))
    with tempfile.TemporaryDirectory(prefix="udacisense-driver-") as scratch:
        for name in driver_sources(row):
            (Path(scratch) / name).write_text(shim.native_source(name), encoding="utf-8")
        command = ["javac", "--release", "17", "-cp", path, "-d", str(classes), *driver_sources(row)]
        shim.compile_c(command, Path(scratch))


def _self_test(row: Runtime, folder: Path, version: str) -> float:
    """Run a small file in the library and here; return the largest difference.

    Raises:
        InputError: the library fell, or its answer is another one.
    """
    model, image, expected = small_model(folder, row.formats[0])
    try:
        with LibrarySession(
            row,
            folder,
            model,
            library_version=version,
            engine=None,
            threads=1,
            answer_timeout_s=_SELF_TEST_TIMEOUT_S,
        ) as session:
            answer = session.run(image)
    except UdacisenseError as exc:
        raise InputError(f"{row.name} with library {version} was built but fails its self-test: {exc}") from exc
    finally:
        model.unlink()
    max_abs = float(np.abs(answer - expected).max())
    if not max_abs <= _SELF_TEST_TOLERANCE:
        raise InputError(f"{row.name} was built but its self-test differs by {max_abs:.3g} from this host's answer.")
    return max_abs


def small_model(folder: Path, form: str) -> tuple[Path, NDArray[np.float32], NDArray[np.float32]]:
    """Write a small file; return it, an input and the answer to it here."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    image = torch.randn(2, 3, 16, 16, generator=generator)
    path = folder / f"self_test{SUFFIXES[form]}"
    if form in _WRITTEN:
        # This very network, written once by the toolchain: no converter is here.
        path.write_bytes((files("harness.runtime") / "self_test" / _WRITTEN[form]).read_bytes())
    elif form == "ptl":
        traced = torch.jit.trace(net.eval(), image)  # type: ignore[no-untyped-call]
        torch.jit.freeze(traced)._save_for_lite_interpreter(str(path))
    else:
        _save_onnx(path, {name: value.detach().numpy() for name, value in net.named_parameters()})
    with torch.inference_mode():
        return path, image.numpy(), net(image).numpy()


def _save_onnx(path: Path, weights: dict[str, NDArray[np.float32]]) -> None:
    """Write the small network node by node, so that no exporter stands between it and the library."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["images", "0.weight", "0.bias"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["maps"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "4.weight", "4.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "self_test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [2, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _build_counter(emulator: str, folder: Path) -> bool:
    """Build qemu's plugin; return whether this qemu takes it (a static one takes none)."""
    source = folder / "lib" / "count.c"
    source.write_text(shim.native_source("count.c"), encoding="utf-8")
    taken = any(_takes_plugin(emulator, folder, version) for version in _PLUGIN_VERSIONS)
    source.unlink()
    if not taken:
        (folder / "lib" / "libcount.so").unlink()
    return taken


def _takes_plugin(emulator: str, folder: Path, version: int) -> bool:
    shim.compile_c(
        ["gcc", "-shared", "-fPIC", "-O2", f"-DPLUGIN_VERSION={version}", "count.c", "-o", "libcount.so"],
        folder / "lib",
    )
    counts, root = folder / "counts", folder / "jre"
    run = [emulator, "-L", str(root), "-plugin", plugin_argument(folder, counts)]
    run += [str(root / "lib" / "ld-linux-aarch64.so.1"), "--version"]
    subprocess.run(run, capture_output=True, check=False, timeout=_SELF_TEST_TIMEOUT_S)
    counted = counts.exists() and counts.stat().st_size > 0
    remove(counts)
    return counted
