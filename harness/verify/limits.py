"""How far a variant may be from its source and from the float32 master, by precision, in one table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from exporters.bundle.manifest import Loadable, Variant
from harness.records import Comparison
from udacisense.base.files import parse_toml, read_toml
from udacisense.base.records import from_json, record
from udacisense.errors import InputError, did_you_mean
from udacisense.measure.metrics import wilson_interval

# Below this many images of a class, or of all, one alone moves a share by more points than any limit could mean.
_FEWEST_IMAGES = 50


@record
class Limit:
    """What a variant of one precision is held to."""

    rtol: float
    atol: float
    is_close: bool  # allclose(rtol, atol) to the eager source decides; False: it is told, and does not
    min_psnr_db: float | None  # against the eager source
    min_agreement_fraction: float  # top-1, with the float32 master
    max_class_drop_points: float | None  # accuracy of any class below the master's
    tie_margin: float  # the master's margin up to which it has not decided: such a flip is told, and not counted
    max_flip_margin: float | None  # the largest of the master's margins at which an image may flip; None: any
    max_confidence_moved: float | None  # mean over the images of |p - the master's p| of the master's class


# fp32            the same arithmetic in another order: equal to 1e-3, and every decision the same, but where two logits
#                 are nearer to each other than twice that.
# fp16            11 significant bits an operation through some 180 operations: noise some 70 dB below the logits'
#                 range (one layer that is off by 1 % leaves 40 dB), and only near ties may flip.
# int8-*          the same kernels as the eager source: equal but where float32 rounding carries an activation over
#                 an int8 border. Trained networks are at 92 dB or more; one layer that is off by 1 % leaves 50 dB.
# int8-weights    8-bit weights by channel and float16 activations: some 55 dB from the float32 master itself.
# palette6, 4     64 and 16 weight values a tensor, made without retraining: what they keep of the master is the
#                 user's decision, so the limits only catch a network that no longer is the same classifier. (What
#                 is not the weights' doing is found with them in the source: harness/verify/inside/own_weights.py.)
LIMITS: dict[str, Limit] = {
    name: Limit(
        rtol=1e-3,
        atol=1e-3,
        is_close=close,
        min_psnr_db=psnr,
        min_agreement_fraction=agreement,
        max_class_drop_points=drop,
        tie_margin=tie,
        max_flip_margin=margin,
        max_confidence_moved=moved,
    )
    for name, close, psnr, agreement, drop, tie, margin, moved in (
        ("fp32", True, None, 1.0, None, 2e-3, None, 0.001),
        ("fp16", False, 55.0, 0.995, None, 0.02, 0.5, 0.01),
        ("int8-dynamic", False, 60.0, 0.97, 5.0, 0.02, None, 0.05),
        ("int8-static", False, 60.0, 0.97, 5.0, 0.02, None, 0.05),
        ("int8-weights", False, 40.0, 0.97, 5.0, 0.02, None, 0.05),
        ("palette6", False, None, 0.95, 10.0, 0.02, None, 0.10),
        ("palette4", False, None, 0.80, 15.0, 0.02, None, None),
    )
}


# (format, precision) → instead of the precision's; see limit_for.
_PSNR_DB = {
    ("onnx", "int8-dynamic"): 40.0,
    ("onnx", "int8-static"): None,
    ("ort", "int8-static"): 50.0,
    ("coreml", "int8-static"): None,
    ("executorch", "int8-static"): None,
    ("tflite", "int8-static"): None,
    ("tflite", "int8-weights"): 35.0,
}


def limit_for(limits: Mapping[str, Limit], variant: Loadable) -> Limit:
    """Return a variant's own row where ``limits`` has one, else its precision's, else the table's.

    int8 in ``.onnx``, ``.pte``, ``.tflite`` and Core ML has no eager source of its precision: the float32 model stands
    in, and the noise between them is quantisation itself. That of linear layers alone is small (58 dB or more on
    trained networks); that of a whole network says nothing, and only decisions are held to limits. An ``.ort`` file is
    held against its ``.onnx``; the quantised operators that onnxruntime fuses round at other places (54 to 68 dB on
    trained networks).
    """
    if variant.id in limits:
        return limits[variant.id]
    limit = limits.get(variant.precision) or LIMITS[variant.precision]
    own = (variant.format, variant.precision)
    return dataclasses.replace(limit, min_psnr_db=_PSNR_DB[own]) if own in _PSNR_DB else limit


def read_limits(path: Path, variants: Sequence[Variant]) -> dict[str, Limit]:
    """Read a TOML file of other limits: a section a precision or a variant id, with the keys of :class:`Limit`.

    A key that is missing keeps the table's value; a variant's section starts from its precision's.

    Args:
        path: the file.
        variants: the bundle's.

    Raises:
        InputError: it cannot be read, or a section or a key is unknown or of another type (named).
    """
    content = parse_toml(read_toml(path), str(path))
    by_id = {variant.id: variant for variant in variants}
    unknown = [name for name in content if name not in LIMITS and name not in by_id]
    if unknown:
        allowed = [*LIMITS, *by_id]
        raise InputError(
            f"{path}: [{unknown[0]}] is neither a precision nor a variant of the bundle; "
            f"there are {', '.join(allowed)}.{did_you_mean(unknown[0], allowed)}"
        )
    limits = dict(LIMITS)
    for name in sorted(content, key=lambda name: name in by_id):  # precisions first
        if not isinstance(content[name], dict):
            raise InputError(f"{path}: {name} is a section; write [{name}] and its keys below.")
        base = limit_for(limits, by_id[name]) if name in by_id else limits[name]
        values = json.dumps(dataclasses.asdict(base) | content[name], default=str)
        limits[name] = from_json(Limit, values, source=f"{path}: [{name}]")
    return limits


def out_of_limits(comparison: Comparison, limit: Limit) -> tuple[str, ...]:
    """Return what is out of limits, each in words; nothing where all is within."""
    c = comparison
    if c.nonfinite:
        return (f"{c.nonfinite} output values are NaN or infinite",)
    problems = []
    if limit.is_close and not c.allclose:
        problems.append(
            f"not equal to its eager source within rtol {c.rtol:g}, atol {c.atol:g}: max |Δ| {c.max_abs:.3g}"
        )
    if limit.min_psnr_db is not None and c.psnr_db is not None and c.psnr_db < limit.min_psnr_db:
        problems.append(f"PSNR against its eager source {c.psnr_db:.1f} dB, at least {limit.min_psnr_db:g} dB wanted")
    decided = _decisions(c, limit)
    return (*problems, *decided, *_confidence(c, limit, decides_alike=not decided))


def _decisions(c: Comparison, limit: Limit) -> list[str]:
    problems = []
    allowed = allowed_flips(c.n_inputs, limit.min_agreement_fraction)
    flips = [f for f in c.flips if f.reference_margin > limit.tie_margin * c.scale]
    if len(flips) > allowed:
        problems.append(
            f"top-1 differs from the float32 master on {len(flips)} of {c.n_inputs} images "
            f"(largest margin {max(f.reference_margin for f in flips):.3g}), {allowed} allowed"
        )
    most = math.inf if limit.max_flip_margin is None else limit.max_flip_margin * c.scale
    wide = [f for f in c.flips if f.reference_margin > most]
    if wide:
        problems.append(
            f"image {wide[0].index} flips although the float32 master decides by {wide[0].reference_margin:.3g} "
            f"({most:.3g} is the most that rounding explains)"
        )
    if limit.max_class_drop_points is not None:
        problems += _class_drops(c, limit.max_class_drop_points)
    return problems


def allowed_flips(n_inputs: int, min_agreement_fraction: float) -> int:
    """Return how many of the images may flip: the limit's share, rounded up.

    Of few images a share says little: as many may flip as do not contradict it (Wilson's 95 % interval).
    """
    # Rounded before the ceiling: (1 - 0.995) * 1000 is 5.000000000000004.
    share = round(1 - min_agreement_fraction, 6)
    allowed = math.ceil(round(share * n_inputs, 6))
    if n_inputs < _FEWEST_IMAGES and share > 0:
        while allowed < n_inputs and wilson_interval(allowed + 1, n_inputs)[0] <= share:
            allowed += 1
    return allowed


def _confidence(c: Comparison, limit: Limit, *, decides_alike: bool) -> list[str]:
    most, found = limit.max_confidence_moved, c.certainty
    if most is None or found is None or found.mean_moved <= most:
        return []
    but = "decides as the float32 master does, and is not as sure: " if decides_alike else ""
    return [
        f"{but}its confidence moved by {found.mean_moved:.3g} on average (at most {found.most_moved:.2g}), "
        f"{most:g} allowed"
    ]


def _class_drops(c: Comparison, allowed_points: float) -> list[str]:
    if c.per_class is None or c.reference_per_class is None or c.n_inputs < _FEWEST_IMAGES * len(c.per_class):
        return []
    drops = {name: (c.reference_per_class[name] - value) * 100 for name, value in c.per_class.items()}
    return [
        f"class '{name}' is {points:.1f} points below the float32 master, {allowed_points:g} allowed"
        for name, points in drops.items()
        if round(points, 6) > allowed_points
    ]
