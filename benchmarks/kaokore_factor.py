"""How large the losses of the Kaokore report's VQ-VAE are in units of mean squares.

    python benchmarks/kaokore_factor.py DATA OUT [KEY=VALUE]...

Its public code takes the mean over positions of the Euclidean norm over channels of the squared
residuals v = z_e - z_q. This trains papers/kaokore/vqvae on split `train` of DATA, such as
folder,root=tiny-imagenet, and measures on its split `test`:

- `factor`: the norm's form of the loss over the mean of squares. By Euler's theorem it is also the
  least-squares coefficient of the norm's gradient on that of the mean;
- `cosine`: between both gradients, 1 where a factor alone makes them equal;
- `code gradient`: in units of Adam's epsilon, the root mean square of the gradient of used codes as
  the public code has it, averaged over a code's uses, in a batch of 128 images of 256 x 256.

KEY=VALUE are overrides of the config. Writes OUT.json, and prints a Markdown table.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from machine import describe_machine

from imagetok import configs, seeding
from imagetok.comparison.table import markdown_row, rule
from imagetok.config import apply_overrides, validate
from imagetok.data import ImageDataset, open_images, parse_spec
from imagetok.images import from_stored
from imagetok.quantizers import functional
from imagetok.tokenizers import build_autoencoder
from imagetok.tokenizers.flat import FlatTokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.optimizer import build_optimizer
from imagetok.training.schedules import values_at
from imagetok.training.tokenizer import loss_function

CONFIG = "papers/kaokore/vqvae"
POINTS = (0, 30, 100, 300, 1000, 3000)
HELD_OUT = 512
POSITIONS = 128 * 64 * 64  # of the report's batch: 128 images of 64 x 64 codes
EPSILON = 1e-8


def residuals(model: FlatTokenizer, dataset: ImageDataset) -> dict[str, torch.Tensor]:
    """Rows v of all positions of held-out images, their codes, and the squared pixel errors."""
    rows, codes, errors = [], [], []
    model.eval()
    for start in range(0, min(HELD_OUT, len(dataset)), 32):
        images = from_stored(dataset.read(range(start, start + 32)).images, model.image)
        with torch.no_grad():
            z_e = model.encoder(model.likelihood.to_network(images))
            out = model.quantizer(z_e)
            errors.append((model(images).x_hat - images).square().flatten())
        rows.append(functional.as_vectors(z_e - out.z_q))
        codes.append(out.indices[0].flatten())
    model.train()
    return {"v": torch.cat(rows), "codes": torch.cat(codes), "errors": torch.cat(errors)}


def measure(v: torch.Tensor, codes: torch.Tensor, errors: torch.Tensor) -> dict[str, float]:
    """Return the columns of the table from residuals, codes and pixel errors."""
    v = v.double()
    norms = v.square().norm(dim=1)
    slopes = 2 * v**3 / norms[:, None]  # of a position's norm
    used, counts = codes.unique(return_counts=True)
    sums = torch.zeros(int(used.max()) + 1, v.shape[1], dtype=v.dtype).index_add_(0, codes, slopes)
    per_code = sums[used] / counts[:, None]
    return {
        "MSE x 10^3": 1e3 * float(errors.mean()),
        "codes used": len(used),
        "norm": float(norms.mean()),
        "mean square": float(v.square().mean()),
        "factor": float(norms.mean() / v.square().mean()),
        "cosine": float((slopes * v).sum() / (slopes.norm() * v.norm())),
        "code gradient": float(per_code.square().mean().sqrt() / POSITIONS / EPSILON),
    }


def main(data: str, out: Path, overrides: Sequence[str]) -> None:
    """Train, and measure at the steps of POINTS and at the last."""
    tree = apply_overrides(configs(CONFIG).tree, overrides)
    run = validate(tree, TokenizerRun, CONFIG)
    source, _ = parse_spec(data)
    train, test = (open_images(source, name, run.tokenizer.image) for name in ("train", "test"))
    seeding.reseed_global(run.seed, "init")
    model = build_autoencoder(run.tokenizer)
    assert isinstance(model, FlatTokenizer)
    loss = loss_function(run.objective, run.tokenizer.image, model.num_codes)
    optimizer = build_optimizer(model, run.train.optimizer)
    order = torch.Generator().manual_seed(run.seed)
    found: dict[int, dict[str, float]] = {}
    for step in range(run.train.steps + 1):
        if step in POINTS or step == run.train.steps:
            found[step] = measure(**residuals(model, test))
            print(step, found[step], file=sys.stderr, flush=True)
        picked = torch.randint(len(train), (run.train.batch_size,), generator=order)
        batch = train.read(picked.tolist())
        optimizer.param_groups[0]["lr"] = run.train.learning_rate.at(step)
        optimizer.zero_grad()
        values = values_at(run.objective.schedules, step)
        loss(model, batch, values, seeding.generator(run.seed, "noise", step)).loss.backward()
        optimizer.step()
    columns = list(found[run.train.steps])
    print(markdown_row(["step", *columns]), rule(len(columns) + 1), sep="\n")
    for step, row in found.items():
        print(markdown_row([str(step), *(f"{value:.4g}" for value in row.values())]))
    machine = describe_machine("torch", "numpy")
    record = {"machine": machine, "data": data, "overrides": list(overrides), "steps": found}
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
