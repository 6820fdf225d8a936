"""What a benchmark ran on, to be stored beside its figures."""

import importlib.metadata
import os
import platform
from pathlib import Path


def describe_machine(*packages: str) -> dict[str, object]:
    """Processor, cores, load and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
