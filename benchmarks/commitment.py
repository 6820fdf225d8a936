"""The commitment of nearest-code tokenizers in the two conventions of the public VQ-VAE-2 code.

python benchmarks/commitment.py DATA NAME=TOKENIZER [NAME=TOKENIZER]...
`mean`: the mean over everything of (e - z)^2. `norm`: the mean over positions of the Euclidean norm
over channels of the squared differences. Both of unit-range images, per level, over a whole split,
with the mean squared error on [0, 1] beside; x 10^3. Prints a Markdown table.
"""

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from imagetok.comparison.table import markdown_row, rule
from imagetok.data import ImageDataset, open_images, parse_spec
from imagetok.images import from_stored
from imagetok.quantizers.base import Quantized, Quantizer
from imagetok.tokenizers import Tokenizer

BATCH = 128


def measure(model: Tokenizer, dataset: ImageDataset) -> dict[str, float]:
    """The sums of all batches over their positions: names to values x 10^3."""
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, values: Tensor) -> None:
        sums[name] = sums.get(name, torch.zeros(())) + values.double().sum()
        counts[name] = counts.get(name, 0) + values.numel()

    def look(level: int, _: Quantizer, args: tuple[Tensor], output: Quantized) -> None:
        squares = (args[0] - output.z_q).square()
        add(f"commitment {level}, mean", squares)
        add(f"commitment {level}, norm", squares.norm(dim=1))

    hooks = [q.register_forward_hook(partial(look, level)) for level, q in enumerate(quantizers)]
    for start in range(0, len(dataset), BATCH):
        stored = dataset.read(range(start, min(start + BATCH, len(dataset)))).images
        images = from_stored(stored, model.image)
        with torch.no_grad():
            add("MSE", (model(images).x_hat - images).square())
    for hook in hooks:
        hook.remove()
    return {name: 1e3 * float(total) / counts[name] for name, total in sums.items()}


def main(data: str, models: Sequence[str]) -> None:
    """Print one row a tokenizer."""
    config, split = parse_spec(data)
    rows = {}
    for named in models:
        name, _, source = named.partition("=")
        model = Tokenizer.from_pretrained(source)
        rows[name] = measure(model, open_images(config, split, model.image))
    columns = sorted({column for row in rows.values() for column in row})
    print(markdown_row(["x 10^3", *columns]))
    print(rule(len(columns) + 1))
    for name, row in rows.items():
        print(markdown_row([name, *(f"{row[c]:.3f}" if c in row else "-" for c in columns)]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
