"""What a format is given and what it gives back."""

from __future__ import annotations

from typing import Literal, get_args

from exporters.bundle.manifest import Coverage, Format, Precision
from udacisense.base.records import Int8Method, Scalar, record
from udacisense.errors import UdacisenseError

PHONE_ENGINE = "qnnpack"  # the only quantised engine in PyTorch's Android and iOS libraries
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
#: How the names of a format's files end.
SUFFIXES: dict[str, str] = {
    "torchscript": ".pt",
    "ptl": ".ptl",
    "onnx": ".onnx",
    "ort": ".ort",
    "coreml": ".mlpackage",
    "executorch": ".pte",
    "tflite": ".tflite",
}
DeploymentTarget = Literal["iOS16", "iOS17", "iOS18"]


class NotPossibleError(UdacisenseError):
    """A variant cannot be made of this model, of these images or on this host; it is skipped, not failed."""


@record
class ExportOptions:
    """What to export and how. Every field has a default, because each is an option of its own to a user."""

    formats: tuple[str, ...] = ("torchscript", "ptl", "onnx", "coreml", "executorch", "tflite")
    precisions: tuple[Precision, ...] = PRECISIONS
    engines: tuple[str, ...] = ("fbgemm", "qnnpack")  # for TorchScript; phones, and so .ptl, have qnnpack alone
    batch: int | None = None  # None: dynamic where the format can, 1 where it cannot
    opset: int = 17  # ONNX
    calibration: int = 128  # images for static int8
    float_blocks: int = 3  # that static int8 may leave in float32 where int8 would change decisions
    int8_method: Int8Method = "fitted"  # how a recipe is calibrated
    minimum_deployment_target: DeploymentTarget = "iOS16"  # Core ML; compressed weights need iOS 16
    normalize: bool = False  # mean and std inside the graph: the app feeds 0-255 RGB
    softmax: bool = False  # probabilities instead of logits
    timeout_s: float = 600.0  # for one variant


@record
class Plan:
    """One variant that is to be made."""

    id: str
    format: Format
    precision: Precision
    engine: str | None
    detail: str | None  # what sets it apart from its sisters: "xnnpack", "image"
    file_name: str

    @property
    def recipe_engine(self) -> str | None:
        """The engine whose recipe a file of static int8 holds: its own, or the phones', of full range as XNNPACK's."""
        return self.engine or PHONE_ENGINE if self.precision == "int8-static" else None


@record
class Product:
    """What a format has to say about a file that it wrote."""

    input_kind: Literal["normalized", "pixels"]
    output_kind: Literal["logits", "probabilities"]
    batch: int | None
    coverage: Coverage | None
    precision_note: str
    options: dict[str, Scalar]
    toolchain: dict[str, str]
    deterministic: bool


def make_plan(
    format_name: Format, precision: Precision, *, engine: str | None = None, detail: str | None = None
) -> Plan:
    """Return a plan whose id is ``<format>-<precision>[-<engine>][-<detail>]``."""
    name = "-".join(part for part in (format_name, precision, engine, detail) if part)
    return Plan(
        id=name,
        format=format_name,
        precision=precision,
        engine=engine,
        detail=detail,
        file_name=f"model-{name}{SUFFIXES[format_name]}",
    )
