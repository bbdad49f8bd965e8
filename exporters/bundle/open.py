"""The bundle: open it, check every byte of it, and rebuild the models that its variants came from."""

from __future__ import annotations

import atexit
import shlex
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from exporters.bundle.manifest import FileRecord, Manifest, Variant, joined_variants
from udacisense.base.files import ZIP_ERRORS, atomic_path, sha256_file, sha256_path, what_it_is, why_absent
from udacisense.base.records import Artifact, Outcome, read_json
from udacisense.errors import InputError, did_you_mean
from udacisense.measure.cascade import Cascade
from udacisense.zoo.table import resolve_artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
LABELS = "labels.txt"
# A bundle's .zip unpacks to two or three times its size; a bomb to a thousand times. Small ones may do as they like.
_MOST_TIMES = 100
_ALWAYS_BYTES = 64 * 10**6
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: the same input gives the same bytes


@dataclass(frozen=True)
class Bundle:
    """An open bundle."""

    root: Path
    manifest: Manifest
    given: Path  # the folder itself, or the .zip that was unpacked to ``root``

    def path(self, relative: str) -> Path:
        """Return the place of a file that the manifest names.

        Raises:
            InputError: the path leaves the bundle.
        """
        return inside(self.root, relative)

    def variant(self, variant_id: str) -> Variant:
        """Return the variant of that id.

        Raises:
            InputError: there is none; the ids are listed.
        """
        for variant in self.manifest.variants:
            if variant.id == variant_id:
                return variant
        ids = [v.id for v in self.manifest.variants]
        hint = did_you_mean(variant_id, ids)
        raise InputError(f"The bundle {self.root} has no variant {variant_id!r}; it has {', '.join(ids)}.{hint}")

    def members(self) -> tuple[Bundle, ...]:
        """Return the own bundle of each member of a cascade, in the order of asking; of one model, this one.

        Raises:
            InputError: a member's folder holds no bundle, or one that the manifest contradicts.
        """
        if self.manifest.members is None:
            return (self,)
        found = tuple(open_bundle(self.path(member.name)) for member in self.manifest.members)
        joined: list[Variant] = []
        for member, own in zip(self.manifest.members, found, strict=True):
            variants = joined_variants(own.manifest, is_first=own is found[0])
            joined += variants
            ids = dict(zip([v.id for v in own.manifest.variants], [v.id for v in variants], strict=True))
            is_same = (own.manifest.name, own.manifest.signature, ids) == (
                member.name,
                self.manifest.signature,
                member.variants,
            )
            if own.manifest.members is not None or not is_same:
                raise InputError(_contradicted(self.root, member.name))
        if tuple(joined) != self.manifest.variants:
            raise InputError(_contradicted(self.root, found[-1].manifest.name))
        return found

    def owner(self, variant_id: str) -> tuple[Bundle, str]:
        """Return the bundle that holds the reference of a variant, and the variant's id there.

        Raises:
            InputError: there is no variant of that id.
        """
        self.variant(variant_id)
        for member, own in zip(self.manifest.members or (), self.members(), strict=False):
            for own_id, joined_id in member.variants.items():
                if joined_id == variant_id:
                    return own, own_id
        return self, variant_id

    def exported(self) -> tuple[Variant, ...]:
        """Return the variants that have a file."""
        return tuple(v for v in self.manifest.variants if v.outcome is Outcome.PASSED)

    def golden_inputs(self) -> NDArray[np.float32]:
        """Return the golden inputs, normalised: float32 (n, 3, H, W)."""
        from exporters.bundle.golden import read_floats

        golden = self.manifest.golden
        shape = (len(golden.images), *self.manifest.signature.input_shape[1:])
        return read_floats(self.path(golden.inputs_path), shape)

    def golden_logits(self, variant: Variant | None = None) -> NDArray[np.float32]:
        """Return what a variant should answer to the golden inputs, or the float32 master's logits: float32 (n, C)."""
        from exporters.bundle.golden import read_floats

        golden = self.manifest.golden
        own = variant.golden_logits_path if variant is not None else None
        return read_floats(
            self.path(own or golden.logits_path), (len(golden.images), self.manifest.signature.output_shape[1])
        )


def _contradicted(root: Path, member: str) -> str:
    return f"The manifest of {root} contradicts that of its member {member}; export the bundle again."


def inside(root: Path, relative: str) -> Path:
    """Join a path of a manifest or a zip to its folder.

    Raises:
        InputError: the path is absolute, empty or leaves the folder.
    """
    parts = PurePosixPath(relative).parts
    is_odd = "\\" in relative or "\0" in relative
    if not parts or PurePosixPath(relative).is_absolute() or ".." in parts or is_odd or ":" in parts[0]:
        raise InputError(f"The path {relative!r} in {root} leaves the bundle; this bundle is not to be trusted.")
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"The path {relative!r} in {root} leads out of the bundle through a link; remove the link.")
    return path


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """Open a bundle, a folder or a ``.zip``; what was unpacked is removed afterwards.

    Raises:
        InputError: it is no bundle, or one whose paths leave it.
    """
    if path.is_dir():
        yield open_bundle(path)
        return
    with tempfile.TemporaryDirectory(prefix="udacisense-bundle-") as name:
        yield open_bundle(path, unpack_to=Path(name) / "bundle")


def open_bundle(path: Path, *, unpack_to: Path | None = None) -> Bundle:
    """Open a bundle and read its manifest; its files are checked by :func:`check_bundle`.

    Args:
        path: a folder, or a ``.zip`` of one.
        unpack_to: new folder for a zip's content; None makes a temporary one, which stays until the process ends.
            Whoever needs the content no longer than a block uses :func:`opened`.

    Raises:
        InputError: it is no bundle, one whose paths leave it, or a cascade whose members contradict its variants.
    """
    require_bundle(path)
    if path.is_dir():
        root = path
    else:
        root = unpack_to or _temporary_folder() / "bundle"
        _unpack(path, root)
    if not (root / Manifest.FILE_NAME).is_file():
        raise InputError(f"{path} holds no {Manifest.FILE_NAME}; {_what_to_give(path)}.")
    manifest = read_json(Manifest, root / Manifest.FILE_NAME)
    for relative in _named_paths(manifest):
        inside(root, relative)
    if problem := manifest.problem():
        raise InputError(f"{root / Manifest.FILE_NAME} contradicts itself: {problem}. Export the bundle again.")
    return Bundle(root, manifest, path)


def require_bundle(path: Path) -> None:
    """Refuse a path where nothing is.

    Raises:
        InputError: there is nothing; for a model that ships, it says how a bundle is made of it.
    """
    if not path.exists():
        raise InputError(f"There is no bundle at {path}{why_absent(path)}; {_what_to_give(path)}.")


def _what_to_give(path: Path) -> str:
    """Say what to give instead of a path that is no bundle: a model, by name or by artifact, is exported first."""
    is_shipped = resolve_artifact(path) != path
    if is_shipped or any((path / name).is_file() for name in (Artifact.FILE_NAME, Cascade.FILE_NAME)):
        model = "a model that ships" if is_shipped else "a model, and no bundle"
        return f"it is {model}, so export it first: {shlex.join(['udacisense', 'export', str(path), '-o', 'bundle'])}"
    return "give the folder or the .zip that export wrote"


def _temporary_folder() -> Path:
    """Make a folder that is removed when the process ends: nobody knows when the last file in it was read."""
    folder = Path(tempfile.mkdtemp(prefix="udacisense-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def bundle_sha256(root: Path) -> str:
    """Return what records of a bundle, a phone's too, know it by: the SHA-256 of its ``manifest.json``."""
    return sha256_file(root / Manifest.FILE_NAME)


def check_bundle(path: Path) -> list[str]:
    """Return what is wrong with a bundle: each changed, missing or extra file by name. An intact one has nothing.

    Raises:
        InputError: it is no bundle at all.
    """
    with opened(path) as bundle:
        return check_files(bundle)


def check_files(bundle: Bundle) -> list[str]:
    """Do the work of :func:`check_bundle` on an open bundle."""
    root, manifest = bundle.root, bundle.manifest
    problems = []
    recorded = {file.path: file for file in manifest.files}
    for relative, file in recorded.items():
        problems += _check_file(root / relative, file)
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.is_symlink():
            problems.append(f"{relative} is a link; a bundle holds plain files")
        elif path.is_file() and relative not in recorded and relative != Manifest.FILE_NAME:
            problems.append(f"{relative} is extra: the manifest does not name it")
    for variant in manifest.variants:
        problems += _check_variant(root, variant)
    named = {p.rstrip("/") for p in _named_paths(manifest)}
    problems += [
        f"{relative} is named by the manifest but is no file of the bundle"
        for relative in sorted(named - set(recorded))
        if not (root / relative).is_dir() and (root / relative).exists()
    ]
    return problems


def _check_file(path: Path, file: FileRecord) -> list[str]:
    if not path.is_file():
        return [f"{file.path} is missing"]
    size = path.stat().st_size
    if size != file.file_bytes:
        return [f"{file.path} is changed: {size} bytes where the manifest records {file.file_bytes}"]
    if sha256_file(path) != file.sha256:
        return [f"{file.path} is changed: its SHA-256 differs from the manifest's"]
    return []


def _check_variant(root: Path, variant: Variant) -> list[str]:
    if variant.outcome is not Outcome.PASSED:
        return [] if variant.path is None else [f"the variant {variant.id} {variant.outcome} but has a file"]
    if variant.path is None or variant.sha256 is None:
        return [f"the variant {variant.id} passed but has no file"]
    path = root / variant.path
    if path.exists() and sha256_path(path) != variant.sha256:
        return [f"the variant {variant.id} ({variant.path}) is not the one that the manifest records"]
    return [] if path.exists() else [f"{variant.path} of the variant {variant.id} is missing"]


def write_zip(root: Path, target: Path) -> None:
    """Write a bundle's folder as one zip, atomically; the same files give the same bytes."""
    with atomic_path(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), date_time=_ZIP_DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(entry, path.read_bytes())


def _unpack(path: Path, root: Path) -> None:
    """Unpack a zip of plain files; anything that would leave ``root`` is refused before a byte is written."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size, most = sum(entry.file_size for entry in entries), _MOST_TIMES * path.stat().st_size
            if size > max(most, _ALWAYS_BYTES):
                raise InputError(
                    f"{path} would unpack to {size:,} bytes, more than {_MOST_TIMES} times its own size, as no"
                    " bundle does; it is not unpacked. Copy it again from where it was exported."
                )
            for entry in entries:
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise InputError(f"{path} holds the link {entry.filename!r}; a bundle holds plain files only.")
                inside(root, entry.filename)
            with atomic_path(root) as partial:
                partial.mkdir()
                for entry in entries:
                    if not entry.is_dir():
                        target = inside(partial, entry.filename)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with archive.open(entry) as source, target.open("wb") as out:
                            shutil.copyfileobj(source, out)
    except ZIP_ERRORS as exc:
        what = exc if zipfile.is_zipfile(path) else what_it_is(path) or exc
        raise InputError(f"{path} is no readable .zip of a bundle ({what}); {_what_to_give(path)}.") from exc


def _named_paths(manifest: Manifest) -> list[str]:
    golden = manifest.golden
    variants = [p for v in manifest.variants for p in (v.path, v.golden_logits_path) if p is not None]
    return [
        *(file.path for file in manifest.files),
        golden.images_path,
        golden.inputs_path,
        golden.logits_path,
        *variants,
        *(member.name for member in manifest.members or ()),
    ]
