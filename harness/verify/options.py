"""What a verification is asked: one record, made once at the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from exporters.bundle.manifest import Variant
from harness.inputs import PixelArray
from harness.verify.limits import LIMITS, Limit, limit_for
from udacisense.data.images import DataSet
from udacisense.measure.shifts import MOST_IMAGES, n_copies


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of ``verify``; ``--locate`` takes its own of them."""

    dataset: DataSet | None = None  # its test images are fed; None: the bundle's own golden pack
    limits: Mapping[str, Limit] = dataclasses.field(default_factory=lambda: LIMITS)  # by precision, or by variant id
    rtol: float | None = None  # relative tolerance instead of the rows' own
    atol: float | None = None  # absolute tolerance instead of the rows' own
    threads: int = 1  # of each process
    processes: int | None = None  # cells that run at a time; None: as many as there are cores for
    timeout_s: float = 600.0  # for each cell
    runners: tuple[str, ...] = ()  # rows of RUNNERS; empty: all that open the format
    variants: tuple[str, ...] = ()  # ids; empty: all
    allow_factory: str | None = None  # the ``package.module:factory`` that may be imported to build the model
    unknown: PixelArray | None = None  # photos of other things: uint8 (n, 3, H, W)
    is_shifted: bool = False  # the test images are fed as phones take them, too
    emulated_images: Literal["golden", "all"] = "golden"  # what runners under emulation are fed

    def images_beyond(self, n_images: int) -> int:
        """Return how many images each file answers beside the real ones, which are so many."""
        shifted = n_copies() * min(n_images, MOST_IMAGES) if self.is_shifted else 0
        return shifted + (0 if self.unknown is None else len(self.unknown))

    def limit(self, variant: Variant) -> Limit:
        """Return what a variant is held to."""
        limit = limit_for(self.limits, variant)
        return dataclasses.replace(
            limit,
            rtol=limit.rtol if self.rtol is None else self.rtol,
            atol=limit.atol if self.atol is None else self.atol,
        )
