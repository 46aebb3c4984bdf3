"""One small run of the whole workflow, shared by the tests that look at what it left."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from running import SMALL, call, write


@pytest.fixture
def settings() -> dict[str, Any]:
    """The settings of the small run, to change."""
    return deepcopy(SMALL)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small run."""
    folder = tmp_path_factory.mktemp("small")
    result = call(folder, "--configfile", write(folder, SMALL))
    assert result.returncode == 0, result.stdout
    return folder
