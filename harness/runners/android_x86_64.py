"""The Android library's x86_64 build, natively: the kernels of the Android emulator on a PC, and their times."""

from __future__ import annotations

from functools import partial

from harness.android import runner, setup

unavailable = partial(setup.unusable, "android-x86_64")
load = partial(runner.load, "android-x86_64")
