"""Where every figure comes from, and how to get it again."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from harness.host import host_name, machine_differences, software_differences
from harness.records import Host
from harness.report.blocks import Block, Chapter, Commands, Part, Prose
from harness.report.collect import Evidence
from harness.report.table import Table
from udacisense.base.files import sha256_file
from udacisense.pipeline.recipes import recipe_of


def provenance_chapter(evidence: Evidence) -> Chapter:
    """Return records, hosts, versions, checksums and commands."""
    blocks: list[Block] = [_records(evidence), _hosts_table(evidence)]
    blocks += _warnings(evidence)
    blocks.append(Part(title="Checksums", blocks=(_checksums(evidence),), is_open=False))
    lines = _commands(evidence)
    if lines:
        blocks.append(Commands(title="To make these records again", lines=lines))
    return Chapter(anchor="provenance", title="Provenance", blocks=tuple(blocks))


def _records(evidence: Evidence) -> Table:
    """One row a record: what made it, and the checksum of what it is about."""
    rows = [
        (str(path), f"seed {artifact.seed}, git {artifact.git_commit or 'none'}", artifact.sha256[:16])
        for path, artifact in evidence.artifacts
    ]
    rows += [
        (str(path), f"thresholds from {made.n_held_back} held-back images of {made.data}", sha256_file(path)[:16])
        for path, made in evidence.cascades
    ]
    rows += [(str(path), f"made {m.created_utc}", m.artifact_sha256[:16]) for path, m in evidence.bundles]
    return Table(title="Records", columns=("record", "made with", "sha256"), rows=tuple(rows))


def _hosts(evidence: Evidence) -> list[tuple[Path, Host]]:
    """Return the machine behind each record that measured something."""
    verified = [(path, made.host) for path, made in evidence.verifications]
    return verified + [(path, made.host) for path, made in evidence.benches]


def _hosts_table(evidence: Evidence) -> Table:
    rows = tuple(
        (
            path.name if len(path.parts) == 1 else f"{path.parent.name}/{path.name}",
            host_name(host),
            host.system,
            host.python,
            ", ".join(f"{name} {version}" for name, version in host.libraries.items()),
            None if host.load_average is None else f"{host.load_average:.2f}",
            {True: "changed since its commit", False: "as committed", None: "unknown"}[host.git_dirty],
            host.git_commit,
        )
        for path, host in _hosts(evidence)
    )
    columns = ("record", "machine", "system", "Python", "libraries", "load", "source tree", "commit")
    return Table(title="Machines and versions", columns=columns, rows=rows)


def _warnings(evidence: Evidence) -> list[Block]:
    found = _hosts(evidence)
    made: list[Block] = []
    if any(host.git_dirty for _, host in found):
        text = "At least one record was made from a source tree with changes that are in no commit."
        made.append(Prose(text=text, tone="open"))
    for path, host in found[1:]:
        first_path, first = found[0]
        if machine_differences(first, host):
            continue
        if differences := software_differences(first, host):
            text = f"{path} was measured with other software than {first_path}: {'; '.join(differences)}."
            made.append(Prose(text=text, tone="open"))
    return made


def _checksums(evidence: Evidence) -> Table:
    rows: list[tuple[str | None, ...]] = []
    for path, artifact in evidence.artifacts:
        rows.append((str(path.parent / artifact.path), artifact.sha256, "recorded when it was written"))
    for path, manifest in evidence.bundles:
        rows.append((str(path), sha256_file(path), "of the manifest as it is now"))
        rows += [
            (str(path.parent / variant.path), variant.sha256, "recorded when it was written")
            for variant in manifest.variants
            if variant.path is not None
        ]
    return Table(title="SHA-256", columns=("file", "sha256", "what it is"), rows=tuple(rows))


def _commands(evidence: Evidence) -> tuple[str, ...]:
    """Return the commands whose inputs the records name; what they do not name stands in capitals."""
    lines = [
        f"udacisense compress --pipeline {recipe.name} --baseline ARTIFACT --data DATA -o {quote(str(path.parent))}"
        for path, run in evidence.runs
        if (recipe := recipe_of(run.name)) is not None
    ]
    lines += [
        f"udacisense export ARTIFACT --data DATA -o {quote(str(path.parent))}  # of weights {m.artifact_sha256[:16]}"
        for path, m in evidence.bundles
    ]
    for path, made in evidence.verifications:
        data = "" if made.inputs.startswith("golden pack") else " --data DATA"
        lines.append(f"udacisense verify {quote(made.bundle)}{data} -o {quote(str(path))}  # {made.inputs}")
    for path, sweep in evidence.benches:
        members = {member.bundle for cascade in sweep.cascades for member in cascade.members}
        places = [str(Path(one.path).parent) if one.name in members else one.path for one in sweep.bundles]
        bundles = " ".join(quote(place) for place in dict.fromkeys(places))
        budget = f" --{sweep.budget.name}" if sweep.budget.name in ("quick", "thorough") else ""
        lines.append(f"udacisense bench {bundles}{budget} --seed {sweep.seed} -o {quote(str(path))}")
    return tuple(line.replace("\n", " ") for line in lines)
