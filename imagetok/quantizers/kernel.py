"""The base class of quantizers that draw their noise first, so that the rest can be compiled."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from imagetok.precision import full_float32
from imagetok.quantizers.base import Quantized, Quantizer


class KernelQuantizer(Quantizer, ABC):
    """A quantizer whose `forward` draws noise and then calls `kernel`, a function of tensors.

    `compile` compiles the kernel. All built-in quantizers are of this form.
    """

    _compiled: Callable[..., Quantized] | None = None

    def noise(
        self, h: Float[Tensor, "B C H W"], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Draw the noise of `kernel`; by default none. h, generator: as for `forward`.

        It is never compiled, because torch compiles no draws from a generator.
        """
        del h, generator
        return ()

    @abstractmethod
    def kernel(
        self,
        h: Float[Tensor, "B C H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        """Quantize for training, as `forward` does, with drawn noise; changes no state.

        temperature: a scalar on the CPU or the device of h; its values share a compiled graph.
        noise: what `noise` returned, which may be overwritten. Called without autocast and with
        full float32 products, compiled or not.
        """

    def forward(
        self,
        h: Float[Tensor, "B C H W"],
        *,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        kernel = self._compiled or type(self).kernel
        # Half precision and TF32 would choose wrong codes.
        with torch.autocast(h.device.type, enabled=False), full_float32():
            dtype = torch.promote_types(h.dtype, torch.float32)
            scalar = torch.as_tensor(temperature, dtype=dtype)
            return kernel(self, h, scalar, self.noise(h, generator))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `kernel` in place; the arguments are those of `torch.compile`.

        There is a graph for each shape, because levels of a tokenizer share their code.
        """
        self._compiled = torch.compile(type(self).kernel, *args, **kwargs | {"dynamic": False})

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_compiled", None)  # copies are not compiled, as those of other modules
        return state
