"""The gate's requirements: one TOML file, strict, every key optional.

::

[consistency]
required = ["ptl-*"]            # variants that must have passed here: for these, skipped is failed

[accuracy]
max_drop_points = 5.0           # top-1, below the float32 master
min_top1_fraction = 0.8

[confidence]                    # at the temperature and the threshold of the manifest
max_moved = 0.05                # mean |p - the float32 master's p|
max_calibration_error = 0.05    # expected calibration error, 0..1
min_answered_top1_fraction = 0.9
max_unknown_taken_fraction = 0.5  # of photos of other things (verify --unknown), taken for a class

[shift]                         # verify --shift
max_lost_points = 2.0           # mean over shifts and severities, to the float32 master

[size]
max_bytes = 5_000_000
min_reduction_percent = 30.0    # against the file of the reference variant
reference = "torchscript-fp32"

[speed]
max_median_ms = 20.0            # at the variant's best setting; of a cascade: the mean over images
min_speedup = 1.5               # against the bench's reference on as many threads
max_arm_instructions = 5_000_000  # of a call (bench --arm-instructions); of a cascade: the mean over images

[regression]                    # against an older run; a gain never fails
max_accuracy_drop_points = 1.0
max_size_growth_percent = 5.0
max_slowdown_percent = 10.0

[[variant]]                     # other limits for some variants, by pattern; a later match wins
match = "*-palette4"
accuracy = { max_drop_points = 10.0 }
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from udacisense.base.files import parse_toml, read_toml
from udacisense.base.records import from_json, record
from udacisense.errors import InputError


@record
class Consistency:
    """What must have been shown equal to its source."""

    required: tuple[str, ...] = ()


@record
class Accuracy:
    """Limits on top-1."""

    max_drop_points: float | None = 5.0
    min_top1_fraction: float | None = None


@record
class Belief:
    """Limits on probabilities."""

    max_moved: float | None = None
    max_calibration_error: float | None = None
    min_answered_top1_fraction: float | None = None
    max_unknown_taken_fraction: float | None = None


@record
class Shift:
    """Limits on photos as phones take them."""

    max_lost_points: float | None = None


@record
class Size:
    """Limits on the file."""

    max_bytes: int | None = None
    min_reduction_percent: float | None = None
    reference: str | None = None  # a variant id of the same bundle


@record
class Speed:
    """Limits on time."""

    max_median_ms: float | None = None
    min_speedup: float | None = None
    max_arm_instructions: int | None = None


@record
class Regression:
    """Limits on what may get worse between two runs."""

    max_accuracy_drop_points: float | None = 1.0
    max_size_growth_percent: float | None = 5.0
    max_slowdown_percent: float | None = 10.0


@record
class Rules:
    """What one variant is held to; without a file: 5 points of accuracy, and no regression beyond noise."""

    consistency: Consistency = Consistency()
    accuracy: Accuracy = Accuracy()
    confidence: Belief = Belief()
    shift: Shift = Shift()
    size: Size = Size()
    speed: Speed = Speed()
    regression: Regression = Regression()


class GateConfig:
    """Rules by variant."""

    def __init__(self, text: str = "", *, source: str = "the configuration") -> None:
        """Read TOML text.

        Raises:
            InputError: it is no TOML, a key is unknown or a value of another type (named).
        """
        content = parse_toml(text, source)
        self._source = source
        self._overrides: list[tuple[str, dict[str, Any]]] = []
        entries = content.pop("variant", [])
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, dict) or not isinstance(entry.get("match"), str):
                raise InputError(f'{source}: each [[variant]] needs a match = "pattern" of variant ids.')
            self._overrides.append((entry["match"], {k: v for k, v in entry.items() if k != "match"}))
        self._base = _merged(asdict(Rules()), content, source)
        # Said now rather than when the first variant asks.
        self.rules("")
        for _, changes in self._overrides:
            _validated(_merged(self._base, changes, source), source)

    def rules(self, variant_id: str) -> Rules:
        """Return what a variant is held to."""
        values = self._base
        for pattern, changes in self._overrides:
            if fnmatchcase(variant_id, pattern):
                values = _merged(values, changes, self._source)
        return _validated(values, self._source)

    def is_required(self, variant_id: str) -> bool:
        """Tell whether a variant must have passed."""
        return any(fnmatchcase(variant_id, pattern) for pattern in self.rules(variant_id).consistency.required)


def read_config(path: Path) -> GateConfig:
    """Read a requirements file.

    Raises:
        InputError: it cannot be read; see :class:`GateConfig`.
    """
    return GateConfig(read_toml(path), source=str(path))


def _merged(base: dict[str, dict[str, Any]], changes: dict[str, Any], source: str) -> dict[str, dict[str, Any]]:
    merged = copy.deepcopy(base)
    for section, values in changes.items():
        if section not in merged:
            raise InputError(f"{source}: there is no section [{section}]; there are {', '.join(merged)}, variant.")
        if not isinstance(values, dict):
            raise InputError(f"{source}: {section} is a section; write [{section}] and its keys below.")
        unknown = sorted(values.keys() - merged[section].keys())
        if unknown:
            allowed = ", ".join(merged[section])
            raise InputError(f"{source}: [{section}] has no key '{unknown[0]}'; it has {allowed}.")
        merged[section].update(values)
    return merged


def _validated(values: dict[str, dict[str, Any]], source: str) -> Rules:
    # As JSON, where a TOML array is what a tuple is read from; a date becomes text, which no key takes.
    return from_json(Rules, json.dumps(values, default=str), source=source)
