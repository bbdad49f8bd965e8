"""Will a ``.pte`` run in a release of ExecuTorch? Its reader and its runtime answer, in the toolchain's environment."""

from __future__ import annotations

from pathlib import Path

from exporters.bundle.metadata import Metadata
from exporters.bundle.pte_file import read_pte
from exporters.preflight.checks import PreflightCheck, check, check_shape, say_labels, skipped
from exporters.toolchain.setup import python_of, unusable
from udacisense.base.child import RESULT, read_in_child
from udacisense.base.files import another_kind
from udacisense.base.records import record, write_record
from udacisense.errors import InputError

#: Releases of ExecuTorch that can be asked: the toolchain's.
EXECUTORCH_RUNTIMES = ("1.5.1",)


@record
class PteFacts:
    """What a file needs, and what the runtime lacks of it."""

    backends: tuple[str, ...]
    operators: dict[str, int]  # of ExecuTorch's own, and how often they are called
    missing: tuple[str, ...]  # of both
    metadata: Metadata | None


def check_pte(path: Path, runtime: str) -> list[PreflightCheck]:
    """Hold a file against a release.

    Raises:
        InputError: the toolchain is not set up.
        LoadError: the file is damaged.
    """
    if not path.is_file() or path.read_bytes()[4:6] != b"ET":
        raise another_kind(path, ".pte file")
    if (reason := unusable("executorch")) is not None:
        raise InputError(f"A .pte is read by ExecuTorch's toolchain alone: {reason}.")
    facts = read_in_child(PteFacts, __name__, path, python=python_of("executorch"))
    needed = (*facts.backends, *facts.operators)
    return [
        check(
            "backends and operators",
            f"missing: {', '.join(facts.missing)}" if facts.missing else ", ".join(needed),
            f"those of ExecuTorch {runtime}'s own package",
            "link the library that has them, or rewrite the model without them",
            is_ok=not facts.missing,
        ),
        skipped("runtime version", "the file does not say which release wrote it; the manifest of its bundle does"),
        say_labels("there, as the method `udacisense`" if facts.metadata else None),
        check_shape(facts.metadata),
    ]


def main(folder: Path, path: str) -> None:
    """Leave the facts of a file in ``folder``; this is the toolchain's Python."""
    from executorch.runtime import Runtime

    found, runtime = read_pte(Path(path)), Runtime.get()
    known = {*runtime.backend_registry.registered_backend_names, *runtime.operator_registry.operator_names}
    facts = PteFacts(
        backends=found.backends,
        operators=found.left,
        missing=tuple(name for name in (*found.backends, *found.left) if name not in known),
        metadata=found.metadata,
    )
    write_record(folder / RESULT, facts)
