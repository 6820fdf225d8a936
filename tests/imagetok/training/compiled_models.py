"""Compiles the tokenizers of configs, and compares them with what was not compiled.

A program of its own: in a test run, functions are wrapped by checks of their types, which torch
does not compile. Arguments: names of configs. Prints a JSON object, name -> facts.
"""

import json
import sys

import torch

from imagetok import configs
from imagetok.config import validate
from imagetok.images import from_stored
from imagetok.quantizers import KernelQuantizer
from imagetok.seeding import reseed_global
from imagetok.tokenizers import Autoencoder, build_autoencoder
from imagetok.training.config import TokenizerRun

SIDE = 64  # for time: graphs do not depend on the size of the images


def built(name: str) -> tuple[Autoencoder, torch.Tensor]:
    """A tokenizer in training mode without dropout, and two random images, small where it can."""
    tree = configs(name).tree
    run = validate(tree, TokenizerRun, name)
    if run.tokenizer.network.any_size:
        image = tree["tokenizer"]["image"]
        image |= {side: min(SIDE, image[side]) for side in ("height", "width")}
        run = validate(tree | {"augment": None}, TokenizerRun, name)
    reseed_global(0)
    model = build_autoencoder(run.tokenizer).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    image = run.tokenizer.image
    draw = torch.Generator().manual_seed(0)
    high = image.num_classes if image.mode == "labels" else 256
    shape = (2, image.channels, image.height, image.width)
    pixels = torch.randint(high, shape, dtype=torch.uint8, generator=draw)
    return model, from_stored(pixels, image)


def learnt(model: Autoencoder, images: torch.Tensor, temperature: float) -> list[torch.Tensor]:
    """What a step gives: reconstructions, codes, losses, statistics and gradients; then update."""
    model.zero_grad()
    out = model(images, temperature=temperature, generator=torch.Generator().manual_seed(1))
    torch.stack(list(out.losses.values())).sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    stats = {name: value.detach() for name, value in out.stats.items()}
    model.update(stats, torch.Generator().manual_seed(2))
    found = [out.x_hat, *out.indices, *out.losses.values(), *stats.values(), *grads]
    return [value.detach() for value in found]


def facts(name: str) -> dict[str, object]:
    """`fullgraph` refuses a graph break; this backend runs each graph as it is."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, images = built(name)
    compiled, _ = built(name)
    compiled.compile(backend="eager", fullgraph=True)
    equal, graphs = [], []
    for temperature in (1.0, 0.9, 0.8):  # the second step is the first after codebooks have started
        expected, found = (learnt(model, images, temperature) for model in (plain, compiled))
        equal.append(len(expected) == len(found) and all(map(torch.equal, expected, found)))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    return {
        "networks": len(compiled.networks()),
        "kernels": sum(isinstance(part, KernelQuantizer) for part in compiled.modules()),
        "graphs": graphs,
        "is_equal": all(equal),
        "same_names": compiled.state_dict().keys() == plain.state_dict().keys(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: facts(name) for name in sys.argv[1:]}))
