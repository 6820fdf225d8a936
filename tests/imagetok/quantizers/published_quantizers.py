"""Write published_quantizers.json: what published code computes for fixed features and codes.

    python tests/imagetok/quantizers/published_quantizers.py SEED_VOKEN LLAMAGEN

SEED_VOKEN, LLAMAGEN: checkouts of TencentARC/SEED-Voken and FoundationVision/LlamaGen. Values and
gradients are those of float64, by loss; gradients of `decoder` are for the weights `seen` of z_q.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def module(path: Path) -> ModuleType:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def facts(loss: Tensor, z: Tensor, codes: Tensor) -> dict[str, Any]:
    """Value and gradients of a loss."""
    to_z, to_codes = torch.autograd.grad(loss, [z, codes], retain_graph=True)
    return {"value": loss.item(), "to_z": to_z.tolist(), "to_codes": to_codes.tolist()}


def main() -> None:
    """Compute and write."""
    voken, llamagen = map(Path, sys.argv[1:])
    torch.set_default_dtype(torch.float64)
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 2, 2, generator=draw).requires_grad_()
    codes, seen = torch.randn(5, 3, generator=draw), torch.randn(2, 3, 2, 2, generator=draw)
    found: dict[str, Any] = {
        name: v.tolist() for name, v in (("z", z), ("codes", codes), ("seen", seen))
    }

    ibq = module(voken / "src/IBQ/modules/vqvae/quantize.py").IndexPropagationQuantize(
        5, 3, use_entropy_loss=True, entropy_temperature=0.5
    )
    ibq.embedding.weight.data.copy_(codes)
    z_q, (quantization, sample, mean, _), (_, _, indices) = ibq(z)
    found["ibq"] = {
        "indices": indices.tolist(),
        **{
            name: facts(loss, z, ibq.embedding.weight)
            for name, loss in (
                ("decoder", (seen * z_q).sum()),
                ("losses", quantization),
                ("sample_entropy", sample),
                ("diversity", -mean),
            )
        },
    }
    vq = module(llamagen / "tokenizer/tokenizer_image/vq_model.py").VectorQuantizer(
        5, 3, beta=0.25, entropy_loss_ratio=1.0, l2_norm=True, show_usage=False
    )
    vq.embedding.weight.data.copy_(codes)
    _, (_, _, penalty, _), (_, _, indices) = vq(z)
    found["llamagen"] = {
        "indices": indices.tolist(),
        "penalty": facts(penalty, z, vq.embedding.weight),
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
