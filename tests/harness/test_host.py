"""The fingerprint of the machine, and when two of them are unlike."""

from __future__ import annotations

import dataclasses

import psutil
import pytest
import torch

from harness.host import machine_differences, read_host, read_state, require_like, software_differences, usable_cores
from harness.records import Host
from udacisense.base.records import from_json, to_json
from udacisense.errors import InputError


@pytest.fixture(scope="module")
def host() -> Host:
    return read_host()


def test_host_says_what_this_machine_is(host: Host) -> None:
    assert host.logical_cores == psutil.cpu_count()
    assert host.memory_bytes == psutil.virtual_memory().total
    assert host.libraries["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert len(host.cpu) > 3
    assert from_json(Host, to_json(host), source="the host") == host


def test_usable_cores_are_at_most_the_physical_ones(host: Host) -> None:
    assert 1 <= usable_cores(host) <= host.physical_cores


def test_state_is_readable(host: Host) -> None:
    state = read_state()
    assert state.load_average >= 0
    assert state.frequency_mhz is None or state.frequency_mhz > 100


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "another"},
        {"physical_cores": 64},
        {"governor": "powersave"},
        {"memory_bytes": 1 << 50},
        {"gpu": "another"},
    ],
)
def test_unlike_machines_are_refused_by_name(host: Host, change: dict[str, object]) -> None:
    other = dataclasses.replace(host, **change)  # type: ignore[arg-type]
    name = next(iter(change))
    assert [d.split(":")[0] for d in machine_differences(host, other)] == [name]
    with pytest.raises(InputError, match=name):
        require_like(host, other)


def test_load_and_commit_and_a_little_memory_do_not_make_a_machine_another(host: Host) -> None:
    other = dataclasses.replace(
        host, load_average=99.0, git_commit="0" * 40, git_dirty=True, memory_bytes=int(host.memory_bytes * 1.001)
    )
    require_like(host, other)


def test_software_differences_name_the_library(host: Host) -> None:
    other = dataclasses.replace(host, libraries={**host.libraries, "torch": "9.9.9"})
    assert machine_differences(host, other) == []
    assert software_differences(host, other) == [f"torch {host.libraries['torch']} against 9.9.9"]
