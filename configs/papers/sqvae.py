"""The SQ-VAE paper (Takida et al. 2022): its table on CelebA, and codebooks of many sizes."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from papers.cell import ANNEALED, Cell, Method, constants, prior_run_of, run_of

SQVAE = (
    "tokenizer.quantizer={kind: sqvae, variance: I}",
    f"tokenizer.quantizer.log_variance={math.log(20)}",
    "tokenizer.likelihood={kind: arelbo}",
    constants(continuous=1.0, discrete=1.0),
    ANNEALED,
)


class Sweep(NamedTuple):
    """A column of Fig. 5: steps of 32 images, and the released code's network, K and exp(s)."""

    steps: int
    form: str
    blocks: int
    codes: int
    start: int


DATA = {
    "mnist": Sweep(156_250, "net_28", 2, 128, 10),
    "fashion-mnist": Sweep(156_250, "net_28", 2, 256, 10),
    "cifar10": Sweep(125_000, "net_32", 2, 512, 20),
    "celeba": Sweep(356_000, "net_64", 6, 512, 20),
}
PLATEAU = (
    "The released code halves the rate where the validation loss stops falling, which is no "
    "function of the step: here it follows half a cosine, over as many steps."
)
EMA = "tokenizer.quantizer={kind: vqvae-ema, code_dim: 64, decay: 0.99, init: normal}"
EMA_CHOICE = "Its settings are not published: decay 0.99, commitment 0.25, mean squared error."
METHODS = {
    "vqvae-ema": Method("VQ-VAE-EMA", (EMA, constants(commitment=0.25)), EMA_CHOICE),
    "vqvae-ema-reset": Method(
        "VQ-VAE-EMA with reset",
        (
            EMA,
            "tokenizer.quantizer.init=data",
            "tokenizer.quantizer.reset={kind: random, threshold: 1.0, decay: 0.99}",
            constants(commitment=0.25),
        ),
        f"{EMA_CHOICE} Start and reset of codes are Jukebox's.",
    ),
    "sqvae-fixed": Method(
        "SQ-VAE, fixed variance",
        (*SQVAE, "tokenizer.quantizer.variance=fixed"),
        "The variance is not published: here 21, at which type I starts.",
    ),
    "sqvae-i": Method("SQ-VAE I", SQVAE),
    "sqvae-ii": Method("SQ-VAE II", (*SQVAE, "tokenizer.quantizer.variance=II")),
    "sqvae-iii": Method("SQ-VAE III", (*SQVAE, "tokenizer.quantizer.variance=III")),
}
PIXELCNN = Method(
    "PixelCNN",
    prior_run_of(100 * 162_770 // 128, 128, "{kind: pixelcnn}"),
    "Neither its size nor its training is published: here 64 channels and 15 layers, as a public "
    "VQ-VAE has it, for 100 epochs of 128 images.",
)
# MSE x 10^3, rFID, FID (Table 2)
TABLE = {
    "vqvae-ema": "1.33 ± 0.41, 18.5 ± 5.1, 42.0 ± 11.5",
    "vqvae-ema-reset": "1.62 ± 0.36, 22.0 ± 5.9, 51.8 ± 10.8",
    "sqvae-fixed": "1.09 ± 0.01, 15.9 ± 0.1, 38.2 ± 0.9",
    "sqvae-i": "0.96 ± 0.01, 14.8 ± 0.3, 28.2 ± 0.9",
    "sqvae-ii": "0.98 ± 0.01, 14.3 ± 0.2, 27.7 ± 1.1",
    "sqvae-iii": "0.96 ± 0.00, 13.9 ± 0.1, 28.1 ± 0.3",
}


def sqvae_paper() -> Iterator[Cell]:
    """Table 2, then the codebooks of Fig. 5."""
    for kind, numbers in TABLE.items():
        mse, rfid, fid = numbers.split(", ")
        method = METHODS[kind]
        cell = Cell(
            path=f"celeba/sqvae-paper/{kind}",
            dataset="celeba",
            method=method.name,
            variant="",
            source="Table 2",
            expected=f"MSE x 10^3: {mse}, rFID {rfid}; with a PixelCNN prior FID {fid}",
            choices=f"{method.choices} {PLATEAU}".strip(),
            settings=(*run_on("celeba", 64), *method.settings),
        )
        yield from (cell, cell.with_prior(PIXELCNN, f"FID {fid}"))
    for dataset in ("mnist", "fashion-mnist", "cifar10"):
        codes = DATA[dataset].codes
        yield codebook(dataset, "sqvae-paper/sqvae-i" if dataset == "cifar10" else "sqvae", codes)
        for size in (64, 128, 256, 512, 1024):
            yield codebook(dataset, f"sqvae-paper/sqvae-i-codes-{size}", size)
        for dim in (8, 16, 32, 64, 128):
            yield codebook(dataset, f"sqvae-paper/sqvae-i-dim-{dim}", codes, dim)


def codebook(dataset: str, name: str, codes: int, dim: int = 64) -> Cell:
    """A point of Fig. 5."""
    return Cell(
        path=f"{dataset}/{name}",
        dataset=dataset,
        method="SQ-VAE I",
        variant=f"{codes} codes of {dim} dimensions",
        source="Fig. 5",
        expected="",
        choices=f"The points of the sweep are chosen; the network is as wide as a code. {PLATEAU}",
        settings=(
            *run_on(dataset, dim),
            *SQVAE,
            f"tokenizer.quantizer.log_variance={math.log(DATA[dataset].start)}",
            f"tokenizer.quantizer.num_codes={codes}",
            f"tokenizer.quantizer.code_dim={dim}",
        ),
    )


def run_on(dataset: str, width: int) -> tuple[str, ...]:
    """Length and network, which is as wide as a code."""
    steps, form, blocks, *_ = DATA[dataset]
    network = f"{{kind: sqvae, form: {form}, width: {width}, residual_layers: {blocks}}}"
    rate = f"{{kind: warmup_cosine, peak: 1e-3, end: 1e-6, warmup: 0, steps: {steps}}}"
    return (*run_of(0, steps, 32, rate), f"tokenizer.network={network}")
