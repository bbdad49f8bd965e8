"""Will this file run on that phone's runtime? Answered on the desk: yes, or no with the reason and the fix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.bundle.metadata import Metadata, read_extra_file
from exporters.formats.pointwise import NEVER_ON_X86
from exporters.preflight.checks import PreflightCheck, check, check_shape, skipped
from exporters.preflight.executorch import EXECUTORCH_RUNTIMES, check_pte
from exporters.preflight.lite_facts import LiteFacts, backport, read_lite
from exporters.preflight.litert import TFLITE_RUNTIMES, check_tflite, page_warnings
from udacisense.base.files import size_bytes, why_absent
from udacisense.base.records import Outcome, record
from udacisense.errors import InputError

if TYPE_CHECKING:
    from exporters.preflight.onnx_facts import OnnxFacts

_ENGINE_OF_PHONES = "qnnpack"
_LARGE_BYTES = 100 * 10**6  # an app's base module may weigh 200 MB in the store; half of it is a model out of hand


@record
class PreflightReport:
    """The answer of :func:`preflight`."""

    file: str
    runtime: str
    verdict: Outcome  # failed where any check failed
    checks: tuple[PreflightCheck, ...]
    warnings: tuple[str, ...] = ()  # what is right on a phone, and misleads elsewhere


@dataclass(frozen=True, kw_only=True)
class LiteRuntime:
    """A release of ``org.pytorch:pytorch_android_lite``."""

    bytecode: tuple[int, int]  # kMinSupportedBytecodeVersion, kMaxSupportedBytecodeVersion
    file_format_max: int  # kMaxSupportedFileFormatVersion
    column: int  # of lite_operators.txt


# caffe2/serialize/versions.h as installed by the wheels 2.1.0, 1.13.1 and 1.12.1 (1.12.2 was released for Android
# alone). 1.12.1 has two file format limits, 10 and 6, chosen when it is built; the lower is safe.
LITE_RUNTIMES: dict[str, LiteRuntime] = {
    "2.1.0": LiteRuntime(bytecode=(4, 9), file_format_max=10, column=2),
    "1.13.1": LiteRuntime(bytecode=(4, 9), file_format_max=10, column=1),
    "1.12.2": LiteRuntime(bytecode=(4, 9), file_format_max=6, column=0),
}


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """A release of ``com.microsoft.onnxruntime:onnxruntime-android`` or ``-mobile``."""

    opset_max: int
    ir_max: int
    is_reduced: bool  # onnxruntime-mobile: .ort files alone, and short lists of operators and element types
    opset_min: int = 7


# The opset and IR version of the ONNX release that each onnxruntime release contains (its release notes; ONNX's
# version table): 1.16 has ONNX 1.14, 1.17 has 1.15, 1.18 and 1.19 have 1.16. onnxruntime-mobile ended with 1.18.0.
ONNX_RUNTIMES: dict[str, OnnxRuntime] = {
    "1.19.2": OnnxRuntime(opset_max=21, ir_max=10, is_reduced=False),
    "1.18.0": OnnxRuntime(opset_max=21, ir_max=10, is_reduced=False),
    "1.17.3": OnnxRuntime(opset_max=20, ir_max=9, is_reduced=False),
    "1.16.3": OnnxRuntime(opset_max=19, ir_max=9, is_reduced=False),
    "mobile-1.18.0": OnnxRuntime(opset_max=21, ir_max=10, is_reduced=True, opset_min=12),
}

# mobile_package.required_operators.config in onnxruntime's sources: what its reduced package holds, from opset 12 on.
_REDUCED = frozenset(
    """
    Abs Add And ArgMax ArgMin AveragePool BiasGelu Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose
    Cos CumSum DepthToSpace DequantizeLinear Div DynamicQuantizeLinear DynamicQuantizeMatMul Elu Equal Erf Exp Expand
    Flatten Floor FusedConv FusedGemm FusedMatMul Gather GatherND Gelu Gemm GlobalAveragePool Greater GreaterOrEqual
    Identity If InstanceNormalization LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop MatMul
    MatMulInteger MatMulIntegerToFloat Max MaxPool Mean Min Mul Neg NhwcMaxPool NonMaxSuppression NonZero Not Or
    PRelu Pad Pow QLinearAdd QLinearAveragePool QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMatMul
    QLinearMul QLinearSigmoid QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    Relu Reshape Resize ReverseSequence Round Scan ScatterND Shape Sigmoid Sin Size SkipLayerNormalization Slice
    Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unique Unsqueeze Where
    """.split()  # noqa: SIM905 - a list of a hundred lines reads worse
)

# Its globally allowed types, and those that shapes, indices and conditions need.
_REDUCED_TYPES = frozenset({"float", "int8_t", "uint8_t", "int32_t", "int64_t", "bool"})

# Core ML's specification version by system: coremltools' table of the same name.
COREML_TARGETS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9}


def preflight(path: Path, *, runtime: str | None = None) -> PreflightReport:
    """Hold a file against a phone's runtime.

    Args:
        path: a ``.ptl``, ``.onnx``, ``.ort``, ``.tflite``, ``.pte`` or ``.mlpackage``.
        runtime: a key of :data:`LITE_RUNTIMES`, :data:`ONNX_RUNTIMES`, :data:`TFLITE_RUNTIMES`,
            :data:`EXECUTORCH_RUNTIMES` or :data:`COREML_TARGETS`; None takes the first of its format, and of iOS the
            oldest that runs an exported model, iOS 16.

    Raises:
        InputError: the file is missing or of another kind, or the runtime is unknown.
        LoadError: the file is damaged.
    """
    if not path.exists():
        raise InputError(
            f"There is no file {path}{why_absent(path)}; give a .ptl, .onnx, .ort, .tflite, .pte or .mlpackage."
        )
    kinds: dict[str, tuple[Callable[[Path, str], list[PreflightCheck]], list[str], str]] = {
        ".ptl": (_check_lite, list(LITE_RUNTIMES), next(iter(LITE_RUNTIMES))),
        ".onnx": (_check_onnx, list(ONNX_RUNTIMES), next(iter(ONNX_RUNTIMES))),
        ".ort": (_check_onnx, list(ONNX_RUNTIMES), next(iter(ONNX_RUNTIMES))),
        ".tflite": (check_tflite, list(TFLITE_RUNTIMES), next(iter(TFLITE_RUNTIMES))),
        ".pte": (check_pte, list(EXECUTORCH_RUNTIMES), next(iter(EXECUTORCH_RUNTIMES))),
        ".mlpackage": (_check_coreml, list(COREML_TARGETS), "iOS16"),
    }
    suffix = path.suffix.lower()
    if suffix not in kinds:
        raise InputError(f"{path} is no {', '.join(kinds)}; preflight knows these alone.")
    checker, known, default = kinds[suffix]
    chosen = runtime or default
    if chosen not in known:
        raise InputError(f"There is no runtime {chosen!r} for {suffix}; choose of {', '.join(known)}.")
    checks = (*checker(path, chosen), _check_size(path))
    failed = any(c.outcome is Outcome.FAILED for c in checks)
    return PreflightReport(
        file=str(path),
        runtime=chosen,
        verdict=Outcome.FAILED if failed else Outcome.PASSED,
        checks=checks,
        warnings=_warnings(path, suffix, chosen),
    )


def _warnings(path: Path, suffix: str, runtime: str) -> tuple[str, ...]:
    if suffix == ".tflite":
        return page_warnings(runtime)
    return _emulator_warnings(path) if suffix == ".ptl" else ()


def _emulator_warnings(path: Path) -> tuple[str, ...]:
    """Say so where the file would mislead on an x86 emulator."""
    metadata = read_extra_file(path)
    if metadata is None:
        facts = read_lite(path)
        plain = sorted({"aten::conv2d", "aten::_convolution", "aten::convolution"} & {*facts.operators})
        return (f"it has {', '.join(plain)}, on maps that are not known: {NEVER_ON_X86}",) if plain else ()
    count = read_lite(path, input_shape=(metadata.batch or 1, *metadata.signature.input_shape[1:])).small_pointwise
    return (f"{count} such convolutions: {NEVER_ON_X86}",) if count else ()


def backport_lite(path: Path, target: Path, *, runtime: str) -> int:
    """Write a ``.ptl`` in the newest bytecode that a runtime takes, and return that version.

    Raises:
        InputError: the runtime is unknown, or takes the file as it is.
        LoadError: the file is damaged, or PyTorch cannot write that version of it.
    """
    if runtime not in LITE_RUNTIMES:
        raise InputError(f"There is no runtime {runtime!r}; choose of {', '.join(LITE_RUNTIMES)}.")
    newest = LITE_RUNTIMES[runtime].bytecode[1]
    found = read_lite(path).bytecode_version
    if found <= newest:
        raise InputError(f"{path} is bytecode {found}, which {runtime} takes as it is; there is nothing to backport.")
    backport(path, target, newest)
    return newest


def _check_lite(path: Path, runtime: str) -> list[PreflightCheck]:
    facts, metadata, limits = read_lite(path), read_extra_file(path), LITE_RUNTIMES[runtime]
    low, high = limits.bytecode
    return [
        check(
            "bytecode version",
            str(facts.bytecode_version),
            f"{low} to {high}",
            "write an older bytecode with --backport",
            is_ok=low <= facts.bytecode_version <= high,
        ),
        check(
            "file format version",
            str(facts.file_format_version),
            f"up to {limits.file_format_max}",
            "an operator's meaning changed after this runtime; use a newer runtime",
            is_ok=facts.file_format_version <= limits.file_format_max,
        ),
        _check_operators(facts, runtime, limits),
        _check_engine(facts, metadata),
        check_shape(metadata),
    ]


def _check_operators(facts: LiteFacts, runtime: str, limits: LiteRuntime) -> PreflightCheck:
    known = lite_operators(limits.column)
    missing = [name for name in facts.operators if name not in known]
    longer = [name for name, count in facts.operators.items() if name in known and count > known[name]]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} takes {known[name]} arguments, the file passes {facts.operators[name]}" for name in longer]
    return check(
        "operators",
        "; ".join(problems) or f"{len(facts.operators)} operators",
        f"those of {runtime}",
        "rewrite the model without them, use a newer runtime, or ONNX or ExecuTorch",
        is_ok=not problems,
    )


def lite_operators(column: int) -> dict[str, int]:
    """Return name → number of arguments of a runtime's operators; ``column`` as in :class:`LiteRuntime`."""
    known: dict[str, int] = {}
    for line in Path(__file__).with_name("lite_operators.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, *counts = line.split()
            count = counts[column if len(counts) > 1 else 0]
            if count != "-":
                known[name] = int(count)
    return known


def _check_engine(facts: LiteFacts, metadata: Metadata | None) -> PreflightCheck:
    name = "quantised engine"
    if not any(operator.startswith("quantized::") for operator in facts.operators):
        return check(name, "none needed", _ENGINE_OF_PHONES, "", is_ok=True)
    if metadata is None or metadata.engine is None:
        return skipped(name, "int8 operators, and no metadata that says which engine they were made for")
    return check(
        name,
        metadata.engine,
        f"{_ENGINE_OF_PHONES}, the only one in the Android and iOS libraries",
        f"export with --engine {_ENGINE_OF_PHONES}",
        is_ok=metadata.engine == _ENGINE_OF_PHONES,
    )


def _check_size(path: Path) -> PreflightCheck:
    size = size_bytes(path)
    return check(
        "size",
        f"{size / 1e6:.2f} MB (10^6 bytes)",
        f"up to {_LARGE_BYTES / 1e6:g} MB",
        "quantise it, or let the app download it",
        is_ok=size <= _LARGE_BYTES,
    )


def _check_onnx(path: Path, runtime: str) -> list[PreflightCheck]:
    from exporters.preflight.onnx_facts import read_facts

    facts, limits = read_facts(path), ONNX_RUNTIMES[runtime]
    checks = [
        check(
            "opset",
            str(facts.opset),
            f"{limits.opset_min} to {limits.opset_max}",
            f"export with an --opset of that range (up to {limits.opset_max}), or use another runtime",
            is_ok=limits.opset_min <= facts.opset <= limits.opset_max,
        )
    ]
    if facts.ir_version is not None:
        checks.append(
            check(
                "IR version",
                str(facts.ir_version),
                f"up to {limits.ir_max}",
                "export with a lower --opset, or use a newer runtime",
                is_ok=facts.ir_version <= limits.ir_max,
            )
        )
    own = {"", "com.microsoft"} if limits.is_reduced else {"", "com.microsoft", "ai.onnx.ml"}
    foreign = sorted(facts.operators.keys() - own)
    missing = [*sorted(facts.unknown), *(f"{domain}::{op}" for domain in foreign for op in facts.operators[domain])]
    if limits.is_reduced:
        missing += sorted(op for d, ops in facts.operators.items() if d not in foreign for op in ops - _REDUCED)
        checks += _check_reduced(path, facts)
    checks.append(
        check(
            "operators",
            f"missing: {', '.join(missing)}" if missing else f"{sum(map(len, facts.operators.values()))} operators",
            f"those of {runtime}",
            "use the full package onnxruntime-android, which has them all" if limits.is_reduced else "avoid them",
            is_ok=not missing,
        )
    )
    return [*checks, check_shape(facts.metadata)]


def _check_reduced(path: Path, facts: OnnxFacts) -> list[PreflightCheck]:
    """What onnxruntime-mobile asks beyond the full package, its operators apart."""
    is_ort = path.suffix.lower() == ".ort"
    checks = [
        check(
            "file format",
            path.suffix,
            ".ort alone",
            "take the .ort beside it, or the full package onnxruntime-android",
            is_ok=is_ort,
        )
    ]
    if is_ort:
        checks.append(
            check(
                "element types",
                ", ".join(sorted(facts.element_types)),
                ", ".join(sorted(_REDUCED_TYPES)),
                "export in fp32 or int8, or use the full package onnxruntime-android",
                is_ok=facts.element_types <= _REDUCED_TYPES,
            )
        )
    return checks


def _check_coreml(path: Path, runtime: str) -> list[PreflightCheck]:
    from exporters.formats.coreml import load_spec, read_metadata

    version = int(load_spec(path).specificationVersion)
    needed = next((name for name, number in COREML_TARGETS.items() if number >= version), "a newer iOS")
    return [
        check(
            "specification version",
            f"{version} ({needed})",
            f"up to {COREML_TARGETS[runtime]} ({runtime})",
            f"export with --minimum-deployment-target {runtime}, or let the app require {needed}",
            is_ok=version <= COREML_TARGETS[runtime],
        ),
        check_shape(read_metadata(path)),
    ]
