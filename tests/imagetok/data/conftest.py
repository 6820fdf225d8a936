"""Where real images are found: a folder that the environment names, or nowhere."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real images, laid out as shared/data; skips without one."""
    folder = os.environ.get("IMAGETOK_TEST_DATA")
    if not folder:
        pytest.skip("set IMAGETOK_TEST_DATA to a folder of real images to run this")
    return Path(folder)
