"""``udacisense doctor``: the environment, and what can run in it."""

from __future__ import annotations

from typing import Any

import click

from udacisense.cli.output import emit_json, json_option, next_command, say, table


@click.command("doctor", short_help="Show what this machine has and what can run here.")
@json_option
def command(*, as_json: bool) -> None:
    """Show versions, cores, quantised engines, and which formats can be written and run on this machine."""
    facts = collect()
    if as_json:
        emit_json(facts)
        return
    table("Environment", ["what", "found"], [[k, str(v)] for k, v in facts["environment"].items()])
    say()
    rows = [[name, "yes" if reason is None else f"no: {reason}"] for name, reason in facts["formats"].items()]
    table("Formats that can be written", ["format", "here"], rows)
    say()
    rows = [[name, "yes" if reason is None else f"no: {reason}"] for name, reason in facts["runners"].items()]
    table("Runtimes that can check them", ["runner", "here"], rows)
    next_command("udacisense", "demo", "--output", "demo")


def collect() -> dict[str, Any]:
    """Return the facts as plain data: ``environment``, ``formats`` and ``runners`` (None: works here)."""
    import torch

    from exporters.formats.table import FORMATS
    from harness.host import read_host
    from harness.runners.table import RUNNERS
    from udacisense.base.tensors import supported_engines

    host = read_host()
    environment = {
        "system": f"{host.system} {host.machine}",
        "cpu": host.cpu,
        "cores": f"{host.physical_cores} physical, {host.logical_cores} logical",
        "memory": f"{host.memory_bytes / 2**30:.1f} GiB",
        "python": host.python,
        **host.libraries,
        "quantised engines": ", ".join(supported_engines()),
        # Public builds lack XNNPACK from torch 2.8 on; optimize_for_mobile needs it.
        "XNNPACK in torch": "yes" if torch._C._is_xnnpack_enabled() else "no",
        "accelerator": host.gpu or "none",
    }
    return {
        "environment": environment,
        "formats": {name: row.unavailable() for name, row in FORMATS.items()},
        "runners": {name: row.unavailable() for name, row in RUNNERS.items()},
    }
