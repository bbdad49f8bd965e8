"""What the fuzz begins with, and how much of it there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis.configuration
import pytest
from fuzz_seeds import Seeds, make_seeds


@pytest.fixture(scope="session")
def seeds(once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    # Its tables of characters would else be kept in the folder that the tests are run from.
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    return Seeds(once("seeds", make_seeds))
