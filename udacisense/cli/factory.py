"""Models that are built by a user's own code, ``package.module:factory``: how a command is told that it may run it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from exporters.bundle import Bundle

F = TypeVar("F", bound=Callable[..., Any])


def allow_factory_option(function: F) -> F:
    """Add ``--allow-factory``; where it is given, the working folder is searched for the factory's module."""
    return click.option(
        "--allow-factory",
        callback=_searched,
        help="package.module:factory that may be imported to build the model; it may lie in the working folder.",
    )(function)


def _searched(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click's
    if value is not None:
        search_working_folder()
    return value


def search_working_folder() -> None:
    """Let a module beside the user be imported, as other tools that take module:name do."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def allowing(architecture: str | None) -> list[str]:
    """Return the option that allows an architecture's factory, for the next command; nothing where it has none."""
    return ["--allow-factory", architecture] if architecture is not None and ":" in architecture else []


def allowing_bundle(bundle: Bundle) -> list[str]:
    """Return the option that allows the factory of a bundle's model; nothing where it has none."""
    from exporters.bundle import REFERENCE, Reference
    from udacisense.types import read_json

    place = bundle.root / REFERENCE
    return allowing(read_json(Reference, place).model.architecture) if place.is_file() else []
