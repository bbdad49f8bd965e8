"""Getting the files of a runtime: by Maven, pip and apt, or from a folder; whole by their checksum, or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.runtime.catalogue import Artifact
from udacisense.base.files import atomic_path, sha256_file
from udacisense.errors import InputError

#: What the arm64 Java runtime is unpacked from; the newest of the two that the distribution has.
JAVA_PACKAGES = ("openjdk-17-jre-headless", "openjdk-21-jre-headless")
_C_PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g")


def fetch_artifact(artifact: Artifact, downloads: Path, *, offline_dir: Path | None) -> Path:
    """Return the file of an artifact in ``downloads``; fetch it where it is not there whole.

    The user's Maven or pip settings say where it comes from. Without a pinned checksum their own is enforced.

    Raises:
        InputError: it cannot be had, or its SHA-256 is not the pinned one.
    """
    target = downloads / artifact.file_name
    if target.is_file() and artifact.sha256 is not None and sha256_file(target) == artifact.sha256:
        return target
    with atomic_path(target) as partial:
        if offline_dir is not None:
            _from_folder(offline_dir, artifact.file_name, partial)
        elif artifact.packaging == "whl":
            _from_index(artifact, partial)
        else:
            _from_maven(artifact, partial)
        if artifact.sha256 is not None and (got := sha256_file(partial)) != artifact.sha256:
            raise InputError(
                f"{artifact.file_name} is not the pinned file (SHA-256 {got[:16]}…, expected "
                f"{artifact.sha256[:16]}…): it is truncated or another one. Remove it from its source and run again."
            )
    return target


def _from_maven(artifact: Artifact, target: Path) -> None:
    # -U asks again for what was not there the last time; -C makes a wrong checksum an error.
    folder = target.with_name(target.name + ".maven")
    command = ["mvn", "-B", "-U", "-C", "dependency:copy", f"-Dartifact={artifact.coordinates}"]
    try:
        ran = _run([*command, f"-DoutputDirectory={folder}"])
        if ran.returncode:
            errors = [line for line in ran.stdout.splitlines() if line.startswith("[ERROR]")]
            said = (
                errors[0].rpartition("(default-cli) on project standalone-pom: ")[2] if errors else ran.stderr.strip()
            )
            raise UnreachableError(f"Maven could not get {artifact.coordinates}: {_without_hosts(said)[:300]}")
        (folder / artifact.file_name).rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_index(artifact: Artifact, target: Path) -> None:
    python, _, platform = artifact.group.split("-")
    folder = target.with_name(target.name + ".pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command += ["--python-version", python.removeprefix("cp"), "--platform", platform]
    try:
        ran = _run([*command, f"{artifact.name}=={artifact.version}"])
        if ran.returncode:
            errors = [line for line in ran.stderr.splitlines() if line.startswith("ERROR: ")] or [ran.stderr.strip()]
            raise UnreachableError(f"pip could not get {artifact.file_name}: {_without_hosts(errors[-1])[:300]}")
        (folder / artifact.file_name).rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_folder(folder: Path, name: str, target: Path) -> None:
    found = folder / name
    if not found.is_file():
        raise InputError(f"{folder} does not hold {name}; put it there, or run without --offline.")
    shutil.copyfile(found, target)


class UnreachableError(InputError):
    """What a runtime is made of cannot be had from where it was looked for."""


@dataclass(frozen=True)
class _Package:
    """A Debian package as apt would get it."""

    name: str
    file_name: str
    sha256: str | None


def fetch_packages(downloads: Path, *, with_java: bool, offline_dir: Path | None) -> list[Path]:
    """Return Debian's C libraries for arm64, and a Java runtime where asked for; fetch what is not there whole.

    apt gets them from the host's own sources, whose signatures it checks, with state and cache folders of its own: no
    root is needed and the host's apt is not touched.

    Raises:
        InputError: they cannot be had.
    """
    if offline_dir is not None:
        wanted = (*((name,) for name in _C_PACKAGES), *((JAVA_PACKAGES,) if with_java else ()))
        return [_offline_package(offline_dir, names) for names in wanted]
    private = downloads / "apt"
    config = _private_apt(private)
    _apt(["apt-get", "-q", "update"], config, private)
    java = [n for n in JAVA_PACKAGES if _has_candidate(n, config, private)][:1] if with_java else []
    if with_java and not java:
        raise UnreachableError(
            f"The host's apt sources offer none of {', '.join(JAVA_PACKAGES)} for arm64; "
            "add an arm64 source, or put the packages into a folder and give it with --offline."
        )
    listing = _apt(["apt-get", "download", "--print-uris", *_C_PACKAGES, *java], config, private)
    packages = [_parse(line) for line in listing.splitlines() if line.startswith("'")]
    for package in packages:
        target = downloads / package.file_name
        if not (target.is_file() and package.sha256 == sha256_file(target)):
            target.unlink(missing_ok=True)
            _apt(["apt-get", "-q", "download", package.name], config, downloads)
        if package.sha256 != sha256_file(target):
            raise InputError(f"{package.file_name} is not what apt announced; run again.")
    return [downloads / package.file_name for package in packages]


def _private_apt(folder: Path) -> Path:
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    config = folder / "apt.conf"
    options = {
        "APT::Architecture": "arm64",
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    lines = [f'{key} "{value}";\n' for key, value in options.items()]
    config.write_text('#clear APT::Architectures;\nAPT::Architectures { "arm64"; };\n' + "".join(lines))
    return config


def _apt(command: list[str], config: Path, folder: Path) -> str:
    ran = _run(command, folder=folder, extra={"APT_CONFIG": str(config)})
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if line.startswith("E:")] or [ran.stderr.strip()]
        raise UnreachableError(f"apt could not get the arm64 packages: {_without_hosts(errors[0])[:300]}")
    return ran.stdout


def _has_candidate(package: str, config: Path, folder: Path) -> bool:
    policy = _apt(["apt-cache", "policy", package], config, folder)
    return "Candidate: " in policy and "Candidate: (none)" not in policy


def _parse(line: str) -> _Package:
    _, file_name, _, digest = line.rsplit(" ", 3)
    name = file_name.split("_")[0]
    return _Package(name, file_name, digest.removeprefix("SHA256:") if digest.startswith("SHA256:") else None)


def _offline_package(folder: Path, names: tuple[str, ...]) -> Path:
    found = [path for name in names for path in sorted(folder.glob(f"{name}_*_arm64.deb"))]
    if not found:
        wanted = " or ".join(f"{name}_*_arm64.deb" for name in names)
        raise InputError(f"{folder} does not hold {wanted}; put it there, or run without --offline.")
    return found[-1]


def unpack_packages(packages: list[Path], folder: Path) -> None:
    """Unpack Debian packages into one folder, which then is a small root of arm64 files.

    Raises:
        InputError: a package is not whole.
    """
    folder.mkdir()
    # Newer distributions keep /lib within /usr: packages of both kinds must meet in one place.
    for name in ("bin", "lib"):
        (folder / "usr" / name).mkdir(parents=True)
        (folder / name).symlink_to(f"usr/{name}")
    for package in packages:
        unpack = folder.parent / "unpack"
        shutil.rmtree(unpack, ignore_errors=True)
        ran = _run(["dpkg-deb", "-x", str(package), str(unpack)])
        if ran.returncode:
            raise InputError(f"{package.name} is not a whole Debian package: {ran.stderr.strip()[:200]}.")
        for part in ("usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/locale"):
            shutil.rmtree(unpack / part, ignore_errors=True)
        shutil.copytree(unpack, folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(unpack)


def find_java(root: Path) -> Path:
    """Return the ``java`` program within an unpacked root.

    Raises:
        InputError: there is none.
    """
    found = sorted(root.glob("usr/lib/jvm/java-*-openjdk-arm64/bin/java"))
    if not found:
        raise InputError("The Debian packages hold no arm64 java program; is openjdk-17-jre-headless among them?")
    return found[-1]


def _run(
    command: list[str], *, folder: Path | None = None, extra: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LC_ALL": "C", **(extra or {})}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def _without_hosts(text: str) -> str:
    """Addresses of mirrors may carry a user's credentials: they stay out of messages."""
    return re.sub(r"\b[a-z]+://\S+", "(its repository)", text)
