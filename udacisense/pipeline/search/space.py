"""Which networks a search tries: families, and how a trial's choices become a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from udacisense.base.records import ModelSpec
from udacisense.models.build import preset

if TYPE_CHECKING:
    from optuna import Trial

_EDGES_PX = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)
_STAGES = 4


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every network of a search has to fit."""

    num_classes: int
    size_px: int  # edge of the images fed in

    @property
    def edges_px(self) -> list[int]:
        """Edges that a network may compute at: more than a quarter of the images', up to half as much again."""
        return sorted({self.size_px, *(e for e in _EDGES_PX if self.size_px / 4 < e <= 1.5 * self.size_px)})


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of :data:`FAMILIES`."""

    name: str
    pipeline: str  # whose recipe trains its networks
    draw: Callable[[Trial, Task], ModelSpec]
    first: Mapping[
        str, object
    ]  # choices of the network that is tried first; at the images' own edge, where it says none


class _Least:
    """Answers a drawing function with the least of everything."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:  # noqa: ARG002 - Optuna's own
        return low

    def suggest_float(self, name: str, low: float, high: float, **_: object) -> float:  # noqa: ARG002
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # noqa: ARG002
        return choices[0]


def least_network(family: Family, task: Task) -> ModelSpec:
    """Return the network of a family with the fewest parameters."""
    return family.draw(cast("Trial", _Least()), task)


def draw_blocks(trial: Trial, task: Task) -> ModelSpec:
    """Draw a line of blocks (:func:`udacisense.models.blocks.parse_blocks`): stem, two to four stages, head.

    A stage is depthwise-separable (``d``) or of inverted residuals (``i``). Its first block may halve the map; those
    behind it keep channels and map, and so add their input.
    """
    stem = trial.suggest_int("stem", 8, 32, step=4)
    stem_stride = trial.suggest_categorical("stem_stride", [1, 2])
    words = [f"c{stem}" + ("s2" if stem_stride == 2 else "")]
    for i in range(1, trial.suggest_int("stages", 2, _STAGES) + 1):
        kind = trial.suggest_categorical(f"kind_{i}", ["d", "i"])
        word = f"{kind}{trial.suggest_int(f'width_{i}', 12, 64, step=4)}"
        if kind == "i":
            word += f"x{trial.suggest_int(f'expansion_{i}', 2, 6)}"
        word += "k5" if trial.suggest_categorical(f"kernel_{i}", [3, 5]) == 5 else ""
        word += "s2" if trial.suggest_categorical(f"stride_{i}", [1, 2]) == 2 else ""
        repeats = trial.suggest_int(f"repeats_{i}", 1, 4)
        words.append(word + (f"*{repeats}" if repeats > 1 else ""))
    head = trial.suggest_categorical("head", [0, 64, 96, 128])
    words += [f"p{head}"] if head else []
    edge = trial.suggest_categorical("resolution_px", task.edges_px)
    return preset(" ".join(words), num_classes=task.num_classes, resolution_px=edge, size_px=task.size_px)


def draw_mobilenet(trial: Trial, task: Task) -> ModelSpec:
    """Draw width and resolution of p1's student."""
    width = trial.suggest_float("width_mult", 0.3, 1.0, step=0.05)
    edge = trial.suggest_int("resolution_px", 64, 224, step=32)
    return preset(
        "p1-student",
        num_classes=task.num_classes,
        resolution_px=edge,
        size_px=task.size_px,
        width_mult=round(width, 2),
    )


# p2's own student
_P2_STUDENT: dict[str, object] = {
    **{"stem": 16, "stem_stride": 1, "stages": 3, "head": 0},
    **{"kind_1": "i", "width_1": 20, "expansion_1": 4, "kernel_1": 3, "stride_1": 2, "repeats_1": 1},
    **{"kind_2": "i", "width_2": 20, "expansion_2": 4, "kernel_2": 5, "stride_2": 1, "repeats_2": 2},
    **{"kind_3": "i", "width_3": 28, "expansion_3": 4, "kernel_3": 5, "stride_3": 2, "repeats_3": 3},
}

FAMILIES: dict[str, Family] = {
    row.name: row
    for row in (
        Family(
            name="blocks",
            pipeline="p2",
            draw=draw_blocks,
            first=_P2_STUDENT,
        ),
        Family(
            name="mobilenet_v3_small",
            pipeline="p1",
            draw=draw_mobilenet,
            first={"width_mult": 1.0, "resolution_px": 128},
        ),
    )
}


def student_options(spec: ModelSpec) -> list[str]:
    """Return the options by which ``udacisense compress`` takes a network of a family."""
    options = spec.options
    if spec.architecture == "blocks":
        return ["--student", str(options["blocks"]), "--resolution", str(options["resolution_px"])]
    return [
        "--student",
        "p1-student",
        "--student-option",
        f"width_mult={options['width_mult']}",
        "--resolution",
        str(options["resolution_px"]),
    ]
