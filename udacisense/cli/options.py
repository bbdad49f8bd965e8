"""Options and arguments that commands share, and what a shell offers for their values when TAB asks for them."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from exporters.bundle.open import Bundle
    from udacisense.base.records import Scalar

F = TypeVar("F", bound=Callable[..., Any])
Complete = Callable[[click.Context, click.Parameter, str], list[str]]


class BundlePath(click.Path):
    """A bundle's place. It has a name, also where ``.`` or ``..`` was given: records lie beside the bundle."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, or refuse the root of the file system."""
        path = cast("Path", super().convert(value, param, ctx))
        path = path.resolve() if path.name in ("", "..") else path
        if not path.name:
            self.fail(f"{path} is the root of the file system; give the folder or the .zip of a bundle.", param, ctx)
        return path


class OutputPath(click.Path):
    """Where a command writes; refused before its work where nothing can be written."""

    def __init__(self, *, is_folder: bool = False) -> None:
        super().__init__(path_type=Path)
        self.is_folder = is_folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, or refuse it."""
        return writable(cast("Path", super().convert(value, param, ctx)), is_folder=self.is_folder)


def writable(path: Path, *, is_folder: bool = False) -> Path:
    """Return a path that a file, or a folder, is to be written at.

    Raises:
        InputError: something else is there, it lies in a bundle, or the place cannot be written to.
    """
    from udacisense.base.files import why_absent
    from udacisense.errors import InputError

    if path.exists():
        is_right = path.is_dir() if is_folder else path.is_file()
        there = "is a folder" if path.is_dir() else "is a file" if path.is_file() else "is a device, and no file"
    else:
        is_right, there = not path.is_symlink(), f"cannot be written{why_absent(path)}"
    if not is_right:
        raise InputError(f"The output {path} {there}; give {'a folder' if is_folder else 'the name of a file'}.")
    above = [place for place in path.absolute().parents if place.exists()]
    if not above[0].is_dir():
        raise InputError(f"The output {path} cannot be written: {above[0]} is a file; give another place.")
    for place in (above[0], *([path] if path.is_dir() else [])):
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"The output {path} cannot be written: you may not write to {place}; give another place.")
    bundle = next((place for place in above if _is_bundle(place)), None)
    if bundle is not None:
        raise InputError(
            f"The output {path} lies in the bundle {bundle}, whose manifest records every file of it; give a place "
            "beside it."
        )
    return path


def _is_bundle(folder: Path) -> bool:
    return (folder / "manifest.json").is_file() and (folder / "golden").is_dir()


def record_beside(bundle: Path, kind: str) -> Path:
    """Return where a command keeps its record of a bundle by default.

    Args:
        bundle: of :class:`BundlePath`.
        kind: the command, such as ``verify``.
    """
    return bundle.with_name(f"{bundle.name}.{kind}.json")


def names_of(module: str, table: str, *others: str) -> Complete:
    """Return a ``shell_complete`` that offers the rows of ``module.table`` and the other names.

    The module is imported inside, so that ``--help`` stays fast.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's
        rows = getattr(importlib.import_module(module), table)
        return [name for name in (*rows, *others) if name.startswith(incomplete)]

    return complete


def variants_of(argument: str) -> Complete:
    """Return a ``shell_complete`` that offers the variants of the bundles that ``argument`` holds so far."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's
        given = ctx.params.get(argument) or ()
        folders = (given,) if isinstance(given, str | Path) else given
        # Behind "--variant", whose value is still missing, click leaves the arguments among those that it did not read.
        found = dict.fromkeys(name for folder in (*folders, *ctx.args) for name in _variants(Path(folder)))
        return [name for name in found if name.startswith(incomplete)]

    return complete


def variant_option(argument: str) -> Callable[[F], F]:
    """Add ``--variant``, which names some of the variants of the bundles in ``argument``."""
    return click.option(
        "--variant",
        "variants",
        multiple=True,
        help="Id of a variant; may be repeated. Default: all.",
        shell_complete=variants_of(argument),
    )


def _variants(folder: Path) -> list[str]:
    """Read the ids alone: whoever presses TAB gets no error, and no wait for the libraries."""
    try:
        return [str(row["id"]) for row in json.loads((folder / "manifest.json").read_bytes())["variants"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []


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
    """Let a module beside the user be imported, behind all others: his ``random.py`` is not the library's."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def found_beside_the_user(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Let the factory that an option names lie in the working folder; this is click's callback of the option."""
    if ":" in (value or ""):
        search_working_folder()
    return value


def thread_counts(text: str, *, most: int = 1024) -> list[int]:
    """Return what ``--threads`` names, each once, in its order."""
    from udacisense.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= most for part in parts):
        raise InputError(f"--threads is {text!r}; give numbers from 1 to {most}, separated by commas: 1,2,4.")
    return list(dict.fromkeys(map(int, parts)))


def seeds_of(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:  # noqa: ARG001 - click's
    """Return the numbers of ``0,1,2``, each once, in their order; none where it was not given."""
    from udacisense.errors import InputError

    if value is None:
        return ()
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) < 2**32 for part in parts):
        raise InputError(f"--seeds is {value!r}; give whole numbers, separated by commas: 0,1,2.")
    return tuple(dict.fromkeys(map(int, parts)))


def allowing(architecture: str | None) -> list[str]:
    """Return the option that allows an architecture's factory, for the next command; nothing where it has none."""
    return ["--allow-factory", architecture] if architecture is not None and ":" in architecture else []


def allowing_bundle(bundle: Bundle) -> list[str]:
    """Return the option that allows the factory of a bundle's model; nothing where it has none."""
    from exporters.bundle.reference import REFERENCE, Reference
    from udacisense.base.records import read_json

    place = bundle.members()[-1].root / REFERENCE
    return allowing(read_json(Reference, place).model.architecture) if place.is_file() else []


def model_options(name: str = "--option") -> Callable[[F], F]:
    """Add an option that may be repeated, ``KEY=VALUE``, for the function that builds a network."""
    return click.option(
        name,
        "model_options",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_key_values,
        help="Of the function that builds the network, e.g. drop_rate=0.2; may be repeated.",
    )


def _key_values(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Scalar]:
    pairs = [text.partition("=") for text in value]
    for key, is_there, _ in pairs:
        if not is_there or not key.isidentifier():
            raise click.BadParameter(f"{key!r} is no KEY=VALUE, such as drop_rate=0.2.", ctx, param)
    return {key: _scalar(text) for key, _, text in pairs}


def _scalar(text: str) -> Scalar:
    """Read what is written as JSON (a number, true, false, null) or as Python writes it; anything else is text."""
    try:
        value = json.loads(text.lower() if text in ("True", "False") else "null" if text == "None" else text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, int | float) else text
