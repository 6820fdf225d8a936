"""Starting a distributed run of several processes on the CPU."""

import os
import subprocess
import sys
from collections.abc import Mapping


def launch(
    processes: int,
    *arguments: object,
    program: tuple[str, ...] = ("-m", "imagetok"),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program, by default imagetok's, in this many processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc_per_node", str(processes), *program]
    on_cpus = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, **on_cpus, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=240,
    )
