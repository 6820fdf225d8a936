"""Finds what makes a training step wait for a GPU, without one.

The GPU is fake: its tensors have a shape and a type, but no values (`FakeTensorMode`). The CPU is
real. Every operation passes `DeviceWaits`, which refuses those that wait for the device, because
the host needs a value or a size from it, and those that mix devices.

A generator of a GPU cannot be made without one. Fake tensors take any generator, so a CPU generator
with the seed `DEVICE_SEED` stands for it; it is refused on the CPU, as others are on the GPU.
"""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

import imagetok
import prior

GPU = torch.device("cuda", 0)
DEVICE_SEED = 1
VALUE, SIZE = "the host waits for its value", "the host waits for the size of its result"
WAITS = {
    "_local_scalar_dense": VALUE,  # of item, tolist, bool, int, float, and of an `if`
    "is_nonzero": VALUE,
    "equal": VALUE,
    "allclose": VALUE,
    "multinomial": VALUE,
    "nonzero": SIZE,
    "masked_select": SIZE,
    "bincount": SIZE,
    "histc": VALUE,
    "isin": SIZE,
    "repeat_interleave": SIZE,  # but with output_size
    "_unique": SIZE,
    "_unique2": SIZE,
    "unique_dim": SIZE,
    "unique_consecutive": SIZE,
    "unique_dim_consecutive": SIZE,
}
"""Operations that wait for the device, and why."""
VARY = {
    *("nll_loss_forward", "nll_loss2d_forward", "nll_loss_backward", "nll_loss2d_backward"),
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_unpool2d", "max_unpool3d"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"),
    "upsample_trilinear3d_backward",
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    *("median", "nanmedian", "histc", "put", "put_", "_ctc_loss_backward"),
}
"""Operations that torch refuses on a GPU with `train.deterministic`, because their bits vary: those
of the documentation of `torch.use_deterministic_algorithms`."""
_OURS = [Path(str(file)).parent for file in (imagetok.__file__, prior.__file__, __file__)]


class WouldWait(AssertionError):
    """An operation of a step waits for the device, or would fail on it."""


class Allowed(NamedTuple):
    """A wait that is accepted."""

    operation: str
    place: str
    """The end of a file's path, and a function in it: `quantizers/functional.py:k_means`."""
    reason: str


class DeviceWaits(TorchDispatchMode):
    """Refuses operations that would wait for `device`, mix it with another one, or vary.

    allowed: accepted waits. What is copied to the CPU there has the values 0. records: whether a
    CUDA graph records the operations; then also copies from the CPU are refused, however they are
    made, and draws of the CPU, because a graph would repeat what it recorded.
    """

    def __init__(
        self,
        device: torch.device = GPU,
        allowed: Sequence[Allowed] = (),
        *,
        records: bool = False,
    ):
        super().__init__()
        self.device = device
        self.allowed = allowed
        self.records = records
        self.log: list[str] = []
        """The recorded operations with their arguments; of tensors on the device only the form, of
        others also the values, which a graph would repeat."""
        self.used: set[Allowed] = set()
        """Those of `allowed` that occurred."""
        self._pinned = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        fault = self._fault(name, args, kwargs)
        if self.records and func.namespace != "profiler":
            fault = fault or self._fault_in_graph(func, args, kwargs)
            leaves = tree_leaves((args, kwargs))
            self.log.append(f"{func}({', '.join(map(self._described, leaves))})")
        if fault is not None:
            if not self._is_allowed(name):
                raise WouldWait(_message(func, fault))
            if name == "_to_copy" and self._is_here(args[0]):
                with no_dispatch():
                    return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if func is torch.ops.aten._fused_adamw_.tensor_lr:  # changes tensors, and has no fake form
            return None
        if name == "_pin_memory":  # without a GPU there is no page-locked memory
            with no_dispatch():
                pinned = args[0].clone()
            self._pinned[pinned] = True
            return pinned
        if not self._makes_here(kwargs) and not _has_fake(args, kwargs):
            with no_dispatch():
                return func(*args, **kwargs)
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise WouldWait(_message(func, "its result depends on values")) from error

    def _fault(self, name: str, args: Any, kwargs: Any) -> str | None:
        """Return why an operation waits or fails; None if it does neither."""
        if name == "_to_copy":
            to = torch.device(kwargs.get("device") or args[0].device)
            return self._fault_of_copy(args[0], to, kwargs.get("non_blocking", False))
        if name == "copy_":
            is_async = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            return self._fault_of_copy(args[1], args[0].device, is_async)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_here = any(map(self._is_here, tensors))
        if self._has_wrong_generator(args, kwargs, is_here or self._makes_here(kwargs)):
            return "its generator and its result are on different devices"
        if not is_here:
            return None
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            return self._fault_of_index(name, args)
        if name in WAITS and kwargs.get("output_size") is None:
            return WAITS[name]
        if name in VARY:
            return "train.deterministic refuses it, because it has no deterministic form on a GPU"
        others = {t.device.type for t in tensors if t.ndim and not self._is_here(t)}
        return f"it mixes {self.device.type} and {', '.join(others)}" if others else None

    def _fault_in_graph(self, func: Any, args: Any, kwargs: Any) -> str | None:
        """Return why a CUDA graph would not do the operation again; None if it would."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__
        to = kwargs.get("device") if name == "_to_copy" else None
        devices = {t.device.type for t in tensors} | ({torch.device(to).type} if to else set())
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            return "a graph does not repeat what the host does before a copy to the device"
        is_here = any(map(self._is_here, tensors)) or self._makes_here(kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and not is_here:
            return "a graph does not repeat draws of the CPU"
        return None

    def _described(self, leaf: Any) -> str:
        if not isinstance(leaf, Tensor):
            return f"generator {id(leaf)}" if isinstance(leaf, torch.Generator) else repr(leaf)
        form = f"{leaf.dtype} {tuple(leaf.shape)} {leaf.device}"
        if self._is_here(leaf):
            return form
        with no_dispatch():
            return f"{form} {leaf.tolist()}"

    def _has_wrong_generator(self, args: Any, kwargs: Any, is_here: bool) -> bool:
        generators = [g for g in tree_leaves((args, kwargs)) if isinstance(g, torch.Generator)]
        return any((g.initial_seed() == DEVICE_SEED) != is_here for g in generators)

    def _fault_of_copy(self, source: Tensor, to: torch.device, is_async: bool) -> str | None:
        if source.device.type == to.type or self.device.type not in (source.device.type, to.type):
            return None
        if self._is_here(source):
            return "the host waits for values, which are copied from the device"
        if not is_async:
            return "a copy to the device that is not non_blocking waits for it"
        if source not in self._pinned:
            return "a copy to the device from memory that is not page-locked waits for it"
        return None

    def _fault_of_index(self, name: str, args: Any) -> str | None:
        indices = [index for index in args[1] if index is not None]
        if not all(self._is_here(index) for index in indices):
            return "an index on the CPU is copied to the device, which is waited for"
        fills = name != "index" and args[2].numel() == 1
        if not fills and any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return "the host waits for the number of places of the mask; use torch.where"
        return None

    def _is_here(self, tensor: Tensor) -> bool:
        return tensor.device.type == self.device.type

    def _makes_here(self, kwargs: Any) -> bool:
        return torch.device(kwargs.get("device") or "cpu").type == self.device.type

    def _is_allowed(self, name: str) -> bool:
        frames = [(Path(f.filename).as_posix(), f.name) for f in traceback.extract_stack()]
        for entry in self.allowed:
            file, function = entry.place.split(":")
            is_there = any(path.endswith(f"/{file}") and at == function for path, at in frames)
            if entry.operation == name and is_there:
                self.used.add(entry)
                return True
        return False


def _has_fake(*values: Any) -> bool:
    return any(isinstance(leaf, FakeTensor) for leaf in tree_leaves(values))


def _message(func: Any, fault: str) -> str:
    """Name the innermost line of this project that led to an operation, and why it waits."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        for ours in _OURS:
            if frame.filename != __file__ and ours in path.parents:
                place = path.relative_to(ours.parent)
                return f"{place}:{frame.lineno} in {frame.name}: {frame.line}\n  {func}: {fault}"
    return f"{func}: {fault}"


class _WithoutDevice(FakeTensorMode):
    """Fake tensors that use no GPU where there is one."""

    avoid_device_init = True  # pyright: ignore


def fake_tensors() -> FakeTensorMode:
    """Return a context in which new tensors have no values and take no memory, on any device."""
    return _WithoutDevice(allow_non_fake_inputs=True)


def device_generator() -> torch.Generator:
    """Return the generator that stands for one of the GPU."""
    return torch.Generator().manual_seed(DEVICE_SEED)


def host_generator() -> torch.Generator:
    """Return a generator of the CPU."""
    return torch.Generator().manual_seed(DEVICE_SEED + 1)


def move(module: nn.Module, device: torch.device = GPU) -> None:
    """Move a module of the meta device, inside `fake_tensors`; shared tensors stay shared."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved.setdefault(id(tensor), _moved(tensor, device))


def _moved(tensor: Tensor, device: torch.device) -> Any:
    there = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(there, tensor.requires_grad) if is_parameter else there
