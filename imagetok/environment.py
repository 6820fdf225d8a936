"""Describing the environment for bug reports: versions, devices, precision, threads, caches."""

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

from imagetok.caches import Cache, find_caches, shareable, size_text
from imagetok.errors import ConfigError
from imagetok.io.url_secrets import without_secrets
from imagetok.named_configs.folder import configs_folder
from imagetok.plugins.loading import installed_plugins
from imagetok.processes import process_state, usable_cpus
from imagetok.results import Result
from imagetok.version import __version__

_VARIABLES = (
    "ACCELERATE_USE_CPU", "ATEN_CPU_CAPABILITY", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_CACHE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF", "RANK",
    "TORCHINDUCTOR_CACHE_DIR", "TORCH_HOME", "WORLD_SIZE",
)  # fmt: skip
_SECRET_VARIABLES = ("ALL_PROXY", "HF_TOKEN", "HTTPS_PROXY", "HTTP_PROXY")
"""Environment variables whose values are not reported, only that they are set."""
_DEVELOPMENT = ("dev", "docs")
"""Extras that are not reported."""
_PRECISIONS = {"none": "ieee (torch's default)"}


@dataclass(frozen=True)
class Device:
    """A GPU."""

    name: str
    """Name for `--device`, such as `cuda:0`."""
    model: str
    memory_bytes: int
    capability: str
    """Compute capability of an NVIDIA GPU; empty for others."""

    def __str__(self) -> str:
        capability = f", compute capability {self.capability}" if self.capability else ""
        return f"{self.model}, {size_text(self.memory_bytes)}{capability}"


@dataclass(frozen=True, repr=False)
class Environment(Result):
    """Description of the software and the machine."""

    version: str
    """Version of imagetok."""
    folder: Path
    """Folder from which imagetok is imported."""
    configs: Path | None
    """Folder of the named configs; None if they are not installed."""
    python: str
    executable: Path
    platform: str
    libraries: Mapping[str, str | None]
    """Version of every library that imagetok needs, by name; None for a missing one."""
    extras: Mapping[str, Mapping[str, str | None]]
    """Versions of the libraries of every extra, as in `pip install "imagetok[eval]"`."""
    plugins: Mapping[str, str]
    """Entry points of installed packages that register parts, by package and version."""
    device: str
    """Default device."""
    devices: tuple[Device, ...]
    """GPUs of the machine."""
    gpu_software: Mapping[str, str]
    """Versions of CUDA (or ROCm) and cuDNN that torch was built with; empty for a CPU build."""
    bfloat16: bool
    """Whether the default device supports bfloat16 natively, without emulation."""
    precision: Mapping[str, str]
    """Default dtype, and the precision of float32 products and convolutions (TF32 or not)."""
    cpus: int
    """Number of CPUs that this process may use."""
    memory_bytes: int | None
    """Memory of the machine; None if unknown."""
    threads: int
    """Number of torch's threads within an operation."""
    interop_threads: int
    """Number of torch's threads for parallel operations."""
    cpu_capability: str
    """Vector instructions that torch uses."""
    num_processes: int
    """Number of processes of the distributed run."""
    caches: Mapping[str, Cache]
    """Caches of downloads and compiled kernels, by content."""
    variables: Mapping[str, str]
    """Environment variables that affect imagetok and are set, without secrets."""

    def title(self) -> str:
        """Return a heading with version and folder."""
        return f"imagetok {self.version} from {shareable(self.folder)}"

    def rows(self) -> Mapping[str, object]:
        """Return all values as text that can be shared, with the home folder as `~`."""
        memory = "" if self.memory_bytes is None else size_text(self.memory_bytes)
        rows = {
            "configs": "not installed" if self.configs is None else shareable(self.configs),
            "python": f"{self.python} ({shareable(self.executable)})",
            "platform": self.platform,
            **{name: found or "missing" for name, found in self.libraries.items()},
            **{f"[{extra}]": _extra_text(extra, has) for extra, has in self.extras.items()},
            **{f"plugin {package}": entry for package, entry in self.plugins.items()},
            "device": self.device,
            "GPUs": "" if self.devices else "none",
            **{f"  {device.name}": device for device in self.devices},
            **self.gpu_software,
            "bfloat16": "native" if self.bfloat16 else "not native",
            **self.precision,
            "CPUs": self.cpus,
            "memory": memory or "unknown",
            "threads": f"{self.threads} (between operations: {self.interop_threads})",
            "CPU capability": self.cpu_capability,
            "processes": self.num_processes,
            **{f"cache of {name}": cache for name, cache in self.caches.items()},
        }
        return {**rows, **self.variables}

    def shareable(self) -> dict[str, Any]:
        """Return all values as plain data for JSON, with the home folder as `~`."""
        caches = {
            name: {"path": shareable(c.path), "bytes": c.bytes, "is_whole": c.is_whole}
            for name, c in self.caches.items()
        }
        return {
            **vars(self),
            "folder": shareable(self.folder),
            "configs": None if self.configs is None else shareable(self.configs),
            "executable": shareable(self.executable),
            "devices": [vars(device) for device in self.devices],
            "caches": caches,
        }


def info() -> Environment:
    """Describe the software and the machine that imagetok runs on.

    >>> import imagetok
    >>> print(imagetok.info())              # paste it into a bug report
    >>> imagetok.info().libraries["torch"]

    Reads versions, settings and the sizes of caches (for two seconds at most); the network is not
    used.
    """
    state = process_state()
    device = torch.device(state.device or "cpu")
    needed = _needed()
    return Environment(
        version=__version__,
        folder=Path(__file__).parent,
        configs=_configs(),
        python=platform.python_version(),
        executable=Path(sys.executable),
        platform=platform.platform(),
        libraries=needed.pop("", {}),
        extras=needed,
        plugins={f"{p.package} {p.version}": p.entry for p in installed_plugins()},
        device=str(device),
        devices=tuple(_devices()),
        gpu_software=_gpu_software(),
        bfloat16=_has_bfloat16(device),
        precision=_precision(),
        cpus=usable_cpus(),
        memory_bytes=_memory_bytes(),
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        num_processes=state.num_processes,
        caches=find_caches(),
        variables=_variables(),
    )


def _extra_text(extra: str, found: Mapping[str, str | None]) -> str:
    text = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    is_whole = all(found.values())
    return text if is_whole else f'{text}; pip install "imagetok[{extra}]"'


def _needed() -> dict[str, dict[str, str | None]]:
    """Return versions of required libraries, by extra ("" for none) and name."""
    try:
        requirements = requires("imagetok") or []
    except PackageNotFoundError:  # imported from a folder that was never installed
        requirements = ["torch", "torchvision", "accelerate", "transformers", "numpy"]
    found: dict[str, dict[str, str | None]] = {}
    for text in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", text)
        extra = re.search(r"extra == ['\"]([^'\"]+)", text)
        if name and not (extra and extra[1] in _DEVELOPMENT):
            found.setdefault(extra[1] if extra else "", {})[name[0]] = _version(name[0])
    return found


def _version(name: str) -> str | None:
    try:
        # torch.__version__ includes the build: 2.14.1+cu130
        return torch.__version__ if name == "torch" else version(name)
    except PackageNotFoundError:
        return None


def _configs() -> Path | None:
    try:
        return configs_folder()
    except ConfigError:
        return None


def _devices() -> Iterator[Device]:
    for i in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(i)
        capability = "" if torch.version.hip else f"{one.major}.{one.minor}"
        yield Device(f"cuda:{i}", one.name, one.total_memory, capability)
    if torch.backends.mps.is_available():
        yield Device("mps", platform.processor(), torch.mps.recommended_max_memory(), "")


def _gpu_software() -> dict[str, str]:
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    found = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip, "cuDNN": cudnn}
    return {name: str(version) for name, version in found.items() if version}


def _precision() -> dict[str, str]:
    backends: Any = torch.backends
    settings: dict[str, str] = {
        "float32 products on GPUs": backends.cuda.matmul.fp32_precision,
        "float32 convolutions on GPUs": backends.cudnn.conv.fp32_precision,
        "float32 products on CPUs": backends.mkldnn.matmul.fp32_precision,
    }
    default = str(torch.get_default_dtype()).removeprefix("torch.")
    settings = {n: _PRECISIONS.get(s, s) for n, s in settings.items()}
    return {"default dtype": default} | settings


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not supported by this system
        return None


def _variables() -> dict[str, str]:
    """Return the environment variables that are set, without secrets."""
    values = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    shown = {name: shareable(without_secrets(value)) for name, value in values.items()}
    both = {name for name in _SECRET_VARIABLES if {name, name.lower()} & set(os.environ)}
    return shown | {name: "set" for name in sorted(both)}
