"""A bundle into the sources of the app, for a build that carries it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import Bundle
from harness.device.push import check_for_app
from udacisense.base.files import atomic_path
from udacisense.errors import InputError

ASSETS = Path("app/src/main/assets/bundle")  # below android_demo


def find_project(start: Path) -> Path:
    """Return the folder ``android_demo`` in ``start`` or above it.

    Raises:
        InputError: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        for candidate in (folder / "android_demo", folder):
            if candidate.name == "android_demo" and (candidate / "app" / "src" / "main").is_dir():
                return candidate
    raise InputError(
        f"There is no android_demo in {start.resolve()} or above it; run within a clone of the project, or give its "
        "folder with --project."
    )


def stage_bundle(bundle: Bundle, project: Path, *, beside: Mapping[str, bytes] | None = None) -> Path:
    """Copy a bundle, checked, in place of the one that the app's sources carry; return its new place.

    Args:
        bundle: an open one.
        project: the folder ``android_demo``.
        beside: files to lie beside the bundle's, of :func:`harness.device.rollout.rollout_file`.

    Raises:
        InputError: ``project`` is not the app's project, or the bundle holds nothing for the app.
        LoadError: the bundle is not whole.
    """
    if not (project / "app" / "src" / "main").is_dir():
        raise InputError(f"{project} is not the Android project: it has no app/src/main.")
    check_for_app(bundle)
    target = project / ASSETS
    with atomic_path(target) as partial:
        for name in (Manifest.FILE_NAME, *(file.path for file in bundle.manifest.files)):
            place = partial / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.root / name, place)
        for name, content in (beside or {}).items():
            (partial / name).write_bytes(content)
    return target
