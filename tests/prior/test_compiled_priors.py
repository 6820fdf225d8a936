"""A compiled prior is one graph."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from imagetok import configs

NAMES = [
    c.name for c in configs() if not c.name.startswith("papers/") and c.tree["kind"] == "prior"
]


@pytest.mark.parametrize(
    "names", [["digits/gpt"], pytest.param(NAMES, marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_no_prior_has_a_graph_break(names):
    program = Path(__file__).with_name("compiled_priors.py")
    done = subprocess.run(
        [sys.executable, program, *names], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(names, 0), done.stderr
