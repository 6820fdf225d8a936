"""Compiles the networks of configs, and compares them with what was not compiled.

A program of its own: in a test run, functions are wrapped by checks of their types, which torch
does not compile. Arguments: names of configs. Prints a JSON object, name -> facts.
"""

import json
import sys

import torch

from imagetok import configs
from imagetok.config import validate
from imagetok.images import from_stored
from imagetok.seeding import reseed_global
from imagetok.tokenizers import Autoencoder, build_autoencoder
from imagetok.training.config import TokenizerRun


def built(name: str) -> tuple[Autoencoder, torch.Tensor]:
    """A tokenizer in training mode without dropout, and two random images."""
    run = validate(configs(name).tree, TokenizerRun, name)
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


def learnt(model: Autoencoder, images: torch.Tensor) -> list[torch.Tensor]:
    """The reconstruction, and the gradients of the networks."""
    out = model(images, generator=torch.Generator().manual_seed(1))
    out.losses["reconstruction"].backward()
    grads = [p.grad for network in model.networks() for p in network.parameters()]
    return [out.x_hat.detach(), *(grad for grad in grads if grad is not None)]


def facts(name: str) -> dict[str, object]:
    """`fullgraph` refuses a graph break; this backend runs each graph as it is."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, images = built(name)
    compiled, _ = built(name)
    for network in compiled.networks():
        network.compile(backend="eager", fullgraph=True)
    expected, found = learnt(plain, images), learnt(compiled, images)
    used = {id(p) for network in compiled.networks() for p in network.parameters()}
    return {
        "networks": len(compiled.networks()),
        "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        "is_equal": len(expected) > 1 and all(map(torch.equal, expected, found)),
        "same_names": compiled.state_dict().keys() == plain.state_dict().keys(),
        "others": [n for n, p in compiled.named_parameters() if id(p) not in used],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: facts(name) for name in sys.argv[1:]}))
