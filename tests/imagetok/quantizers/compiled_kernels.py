"""Compiles the kernels of quantizers, and compares them with what was not compiled.

A program of its own: in a test run, functions are wrapped by checks of their types, which torch
does not compile. Arguments: `eager` or `inductor`, and a JSON object, name -> section of a
quantizer. Prints a JSON object, name -> facts.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from pydantic import TypeAdapter

from imagetok.precision import tf32
from imagetok.quantizers import KernelQuantizer, QuantizerConfig, build_quantizer
from imagetok.seeding import reseed_global

TEMPERATURES = 1.0, 0.9, 0.8  # the second step is the first after a codebook has started
precisions: list[str] = []
"""Of matrix products on a GPU, whenever a graph ran."""


def noting(graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
    """A backend that runs each graph as it is."""
    del inputs

    def run(*given: Any) -> Any:
        precisions.append(torch.backends.cuda.matmul.fp32_precision)
        return graph(*given)

    return run


def built(section: dict[str, Any]) -> KernelQuantizer:
    reseed_global(0)
    quantizer = build_quantizer(TypeAdapter(QuantizerConfig).validate_python(section))
    assert isinstance(quantizer, KernelQuantizer)
    return quantizer


def learnt(quantizer: KernelQuantizer, temperature: float) -> dict[str, torch.Tensor]:
    """Everything that a step gives, with its gradients; then the update, with TF32 allowed."""
    draw = torch.Generator().manual_seed(1)
    h = torch.randn(4, quantizer.in_channels, 8, 8, generator=draw).requires_grad_()
    with tf32():
        out = quantizer(h, temperature=temperature, generator=draw)
        quantizer.zero_grad()
        torch.stack([out.z_q.square().sum(), *out.losses.values()]).sum().backward()
    quantizer.update(
        {k: v.detach() for k, v in out.stats.items()}, torch.Generator().manual_seed(2)
    )
    grads = {
        f"gradient of {n}": p.grad for n, p in quantizer.named_parameters() if p.grad is not None
    }
    indices = {f"codes {level}": codes for level, codes in enumerate(out.indices)}
    found = {"z_q": out.z_q, "gradient": h.grad, **indices, **out.losses, **out.stats, **grads}
    return {name: value.detach() for name, value in found.items() if value is not None}


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value if that is above 1."""
    scale = max(1.0, float(one.abs().max()))
    return float((one.double() - other.double()).abs().max()) / scale


def facts(section: dict[str, Any], backend: str) -> dict[str, Any]:
    """`fullgraph` refuses a graph break."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    precisions.clear()
    plain, compiled = built(section), built(section)
    compiled.compile(backend=noting if backend == "eager" else backend, fullgraph=True)
    differences: dict[str, float] = {}
    graphs, is_equal = [], True
    for temperature in TEMPERATURES:
        expected, found = learnt(plain, temperature), learnt(compiled, temperature)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            is_equal &= torch.equal(value, found[name])
            differences[name] = max(differences.get(name, 0.0), difference(value, found[name]))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    return {
        "is_equal": is_equal,
        "differences": differences,
        "graphs": graphs,
        "precisions": sorted({*precisions}),
    }


if __name__ == "__main__":
    sections = json.loads(sys.argv[2])
    found = {name: facts(section, sys.argv[1]) for name, section in sections.items()}
    sys.stdout.write(json.dumps(found))
