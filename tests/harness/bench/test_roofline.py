"""Operations, bytes and ceilings, against a network small enough to count by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from bench_records import make_source
from torch import nn

from harness.bench.roofline import count_work, limit_ms, measure_ceilings
from harness.records import Ceiling
from udacisense.measure.counts import count_macs
from udacisense.models.build import build_model, preset


def test_work_of_a_hand_counted_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))
    work = count_work(model.eval(), (1, 3, 8, 8))
    conv, linear = 8 * 8 * 4 * 3 * 9, 256 * 10
    assert work.flops == 2 * (conv + linear)
    weights = 4 * 3 * 9 + 256 * 10 + 10
    activations = 3 * 64 + 4 * 64 + 256 + 10
    assert work.moved_bytes == 4 * (weights + activations)


def test_work_of_the_baseline_is_twice_its_multiply_accumulates() -> None:
    model = build_model(preset("baseline")).eval()
    work = count_work(model, (1, 3, 32, 32))
    assert work.flops == 2 * count_macs(model, (1, 3, 32, 32))
    assert work.moved_bytes > 4 * 1_528_106


def test_no_hook_is_left_behind() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    count_work(model, (1, 1, 1, 4))
    assert not model[0]._forward_hooks


def test_the_limit_is_the_larger_of_compute_and_memory() -> None:
    bundle = dataclasses.replace(make_source("b").bundle, flops=2_000_000_000, moved_bytes=10_000_000)
    ceiling = Ceiling(threads=1, gemm_flops_per_s=1e11, cache_bytes_per_s=1e10, memory_bytes_per_s=1e9)
    assert limit_ms(bundle, ceiling, batch_size=1) == pytest.approx(20.0)
    assert limit_ms(bundle, ceiling, batch_size=3) == pytest.approx(60.0)
    slow_memory = dataclasses.replace(ceiling, cache_bytes_per_s=1e8)
    assert limit_ms(bundle, slow_memory, batch_size=1) == pytest.approx(100.0)


def test_ceilings_of_this_host_are_those_of_a_computer() -> None:
    before = torch.get_num_threads()
    (ceiling,) = measure_ceilings([1])
    assert ceiling.threads == 1
    assert 1e8 < ceiling.gemm_flops_per_s < 1e13
    assert 1e8 < ceiling.memory_bytes_per_s < 1e12
    assert 1e8 < ceiling.cache_bytes_per_s < 1e13
    assert torch.get_num_threads() == before, "measured in a process of its own"
