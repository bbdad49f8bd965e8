"""Records that flow between the rooms, and their strict JSON form.

A record is a frozen, slotted, keyword-only dataclass without defaults: what is absent is ``None`` and is
written as ``null``. Reading refuses unknown and missing keys and values of another type, by name.
Units live in field names (``_ms _s _bytes _px _fraction``); fractions are 0..1.
"""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, cast

from annotated_types import Ge, Gt, Le, Lt  # pydantic's own, without pydantic
from typing_extensions import dataclass_transform

from udacisense.base.files import write_text
from udacisense.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
Scalar = str | int | float | bool | None
Int8Method = Literal["fitted", "histogram"]  # how static int8 is calibrated
Count = Annotated[int, Ge(0), Lt(2**63)]
Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, slotted, keyword-only dataclass with strict JSON in and out."""
    made = dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)
    # pydantic reads this when it builds the validator: unknown keys and NaN are refused, nothing is coerced.
    made.__pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False}  # type: ignore[attr-defined]
    return made


# Made once for each type: a sweep writes its record after every process.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(cls: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def to_json(value: object) -> str:
    """Return a record as indented JSON text that ends with a newline."""
    return _adapter(type(value)).dump_json(value, indent=2).decode() + "\n"


def from_json(cls: type[T], text: str | bytes, *, source: str) -> T:
    """Read one record of type ``cls``.

    ``source`` says where the text came from and opens the error message.

    Raises:
        InputError: the text is no JSON, or a key is missing, unknown or of another type (named).
    """
    from pydantic import ValidationError

    try:
        return cast("T", _adapter(cls).validate_json(_without_former(cls, _utf8(text)), strict=True))
    except ValidationError as exc:
        kinds = [error for error in exc.errors() if error["loc"] == ("kind",) and isinstance(error["input"], str)]
        if kinds:
            raise InputError(f"{source} is a record of {kinds[0]['input'][:20]!r}, and no {cls.__name__}.") from exc
        for error in exc.errors():
            if error["loc"] == ("schema_version",) and isinstance(error["input"], int):
                if any(other["type"] == "missing" for other in exc.errors()):
                    raise InputError(
                        f"{source} is another record than {cls.__name__}, or of another release (schema version "
                        f"{error['input']}): give the right one, or make it again with this one."
                    ) from exc
                raise InputError(
                    f"{source} was written by another release (schema version {error['input']} of {cls.__name__}): "
                    "make it again with this one."
                ) from exc
        problems = [f"{'.'.join(str(p) for p in e['loc']) or 'the file'}: {e['msg']}" for e in exc.errors()]
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(f"{source} is not a valid {cls.__name__} record: {'; '.join(problems[:3])}{more}.") from exc


def _utf8(text: str | bytes) -> str | bytes:
    """Return JSON as UTF-8 without the mark that editors put before it, and that JSON does not know."""
    if isinstance(text, bytes) and (encoding := json.detect_encoding(text)) != "utf-8":
        return text.decode(encoding, errors="replace")
    return text


def _without_former(cls: type, text: str | bytes) -> str | bytes:
    """Drop the keys that an earlier release wrote and nothing reads any more: a record names them in ``FORMER``."""
    former: frozenset[str] = getattr(cls, "FORMER", frozenset())
    try:
        tree = json.loads(text) if former else None
    except (ValueError, RecursionError):
        return text  # the reader behind this says what is wrong
    if not isinstance(tree, dict) or former.isdisjoint(tree):
        return text
    return json.dumps({key: value for key, value in tree.items() if key not in former})


def read_json(cls: type[T], path: Path) -> T:
    """Read one record from a file; see :func:`from_json`."""
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror or exc}.") from exc
    return from_json(cls, text, source=str(path))


def write_record(path: Path, value: object) -> None:
    """Write one record as JSON, atomically."""
    write_text(path, to_json(value))


class Outcome(str, Enum):
    """The three honest answers. Skipped always carries a reason and never counts as passed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value


@record
class Resize:
    """How a photo becomes ``size_px`` × ``size_px``: centre crop to a square, then this resize on 8-bit RGB.

    ``bilinear`` with ``antialias`` is Pillow's ``Image.Resampling.BILINEAR`` (a triangle filter scaled to the
    reduction, rounded to 8 bits after each pass).
    """

    method: Literal["bilinear"]
    antialias: bool


@record
class Signature:
    """What goes into a model and what comes out."""

    input_name: str
    output_name: str
    input_shape: tuple[int, int, int, int]  # (N, 3, H, W)
    output_shape: tuple[int, int]  # (N, C)
    dtype: Literal["float32"]
    layout: Literal["NCHW"]
    resize: Resize
    size_px: int  # edge of the square that preprocessing delivers: H = W
    mean: tuple[float, float, float]  # of RGB scaled to 0..1
    std: tuple[float, float, float]
    labels: tuple[str, ...]


@record
class ModelSpec:
    """How to build the eager model again: a row of ``udacisense.models.build.MODELS`` or ``package.module:factory``."""

    architecture: str
    options: dict[str, Scalar]


@record
class StageRecord:
    """What one stage left behind, measured on the test images."""

    stage: str
    config: dict[str, Scalar]
    duration_s: float
    file_bytes: Count
    parameters: Count
    nonzero_parameters: Count
    top1_fraction: Fraction
    top5_fraction: Fraction
    per_class: dict[str, Fraction]  # label -> top-1 fraction
    latency_ms: Positive  # median, batch 1, CPU, this process
    n_eval_images: Count

    @property
    def macro_fraction(self) -> float:
        """Mean over the classes of the fraction of each that was named: its recall."""
        return sum(self.per_class.values()) / len(self.per_class)

    @property
    def told_top5(self) -> float | None:
        """Top-5, where there are more than five classes: of fewer it says nothing."""
        return None if 0 < len(self.per_class) <= 5 else self.top5_fraction


@record
class Confidence:
    """What turns a model's logits into probabilities that may be believed, and when it had better not answer."""

    temperature: Positive  # logits are divided by it before the softmax (Guo et al. 2017)
    rule: Literal["margin"]  # what is held against a threshold: the best probability minus the second best
    unsure_below: Fraction  # an answer with less is "none of these"
    n_images: Count  # held back from the training, that both were fitted on


# Of a model for which no images were held back: the softmax as it is, and everything is answered.
UNFITTED = Confidence(temperature=1.0, rule="margin", unsure_below=0.0, n_images=0)


@record
class ShiftAccuracy:
    """Top-1 under one shift of :mod:`udacisense.measure.shifts`, by severity 1 to 5."""

    shift: str
    top1_fractions: tuple[Fraction, ...]


@record
class Artifact:
    """A trained model on disk: ``artifact.json`` beside its float32 weights (safetensors)."""

    schema_version: Literal[1]
    name: str
    path: str  # of the weights, relative to the artifact's folder
    sha256: str  # of the weights
    git_commit: str | None
    seed: int
    model: ModelSpec
    signature: Signature
    baseline: StageRecord
    stages: tuple[StageRecord, ...]
    confidence: Confidence | None = None  # None: no images were held back

    FILE_NAME: ClassVar[str] = "artifact.json"
