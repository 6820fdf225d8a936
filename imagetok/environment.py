"""What imagetok runs on: versions, devices, threads and caches, as a bug report needs them."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub import constants

from imagetok.processes import process_state
from imagetok.results import Result
from imagetok.version import __version__

_LIBRARIES = (
    "torch", "torchvision", "accelerate", "transformers", "webdataset", "safetensors",
    "huggingface_hub", "pydantic", "numpy", "pillow",
)  # fmt: skip
_OPTIONAL = (
    "torch-fidelity", "torchmetrics", "scikit-learn", "vector-quantize-pytorch", "lmdb", "datasets",
    "pyarrow", "gradio",
)  # fmt: skip
_VARIABLES = (
    "ACCELERATE_USE_CPU", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "RANK", "WORLD_SIZE",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Environment(Result):
    """The software and the machine."""

    version: str
    """Of imagetok."""
    folder: Path
    """Where imagetok is imported from."""
    python: str
    platform: str
    libraries: Mapping[str, str]
    """Name -> version; of optional libraries only those that are installed."""
    device: str
    """What computes where nothing else is asked for."""
    gpus: tuple[str, ...]
    bfloat16: bool
    """Whether the device computes in it natively, not by emulation."""
    cpus: int
    """CPUs that this process may use."""
    threads: int
    """Torch's, of this process."""
    cpu_capability: str
    """The vector instructions that torch computes with."""
    num_processes: int
    caches: Mapping[str, Path]
    """What is downloaded: from the Hub, and published networks."""
    variables: Mapping[str, str]
    """Environment variables that change how imagetok runs, where they are set."""

    def title(self) -> str:
        """imagetok and its version."""
        return f"imagetok {self.version} from {self.folder}"

    def rows(self) -> Mapping[str, object]:
        """Everything, as text."""
        return {
            "python": self.python,
            "platform": self.platform,
            **self.libraries,
            "device": self.device,
            "GPUs": ", ".join(self.gpus) or "none",
            "bfloat16": "native" if self.bfloat16 else "not native",
            "CPUs": self.cpus,
            "threads": self.threads,
            "CPU capability": self.cpu_capability,
            "processes": self.num_processes,
            **{f"cache of {name}": path for name, path in self.caches.items()},
            **self.variables,
        }


def info() -> Environment:
    """Describe the software and the machine that imagetok runs on.

    >>> import imagetok
    >>> print(imagetok.info())              # paste it into a bug report
    >>> imagetok.info().libraries["torch"]

    Reads nothing but versions and settings, and asks no network.
    """
    state = process_state()
    device = torch.device(state.device or "cpu")
    count = torch.cuda.device_count()
    return Environment(
        version=__version__,
        folder=Path(__file__).parent,
        python=platform.python_version(),
        platform=platform.platform(),
        libraries=_versions(),
        device=str(device),
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(count)),
        bfloat16=_has_bfloat16(device),
        cpus=_usable_cpus(),
        threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        num_processes=state.num_processes,
        caches={"the Hub": Path(constants.HF_HUB_CACHE), "networks": Path(torch.hub.get_dir())},
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
    )


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in (*_LIBRARIES, *_OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name in _LIBRARIES:
                found[name] = "missing"
    return found


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _usable_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
