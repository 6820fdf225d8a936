"""The EdVAE paper (Baykal et al. 2023): six methods on three data sets, and its ablations."""

from collections.abc import Iterator

from papers.cell import ANNEALED, Cell, Method, constants, prior_run_of, run_of
from papers.sqvae import SQVAE

COSINE = "{kind: quarter_cosine, start: 1e-3, end: 1.25e-6, steps: 50000}"
RUN = run_of(42, 150_000, 128, COSINE)
KL = "objective.weights={kl: {kind: quarter_cosine, start: 0.0, end: 5e-6, steps: 5000}}"
CONV = "tokenizer.network={kind: conv, width: 128, groups: 3, blocks: 2, kernel_size: 3}"
SONNET = "tokenizer.network={kind: sonnet, width: 128, residual_width: 32, residual_layers: 2}"
SONNET_CHOICE = (
    "The network is that of van den Oord et al. (2017) in the form of DeepMind's Sonnet example; "
    "the squared error is not divided by the variance of the data."
)
METHODS = {
    "vqvae-ema": Method(
        "VQ-VAE-EMA",
        (
            SONNET,
            "tokenizer.quantizer={kind: vqvae-ema, decay: 0.99, init: uniform}",
            constants(commitment=0.25),
        ),
        SONNET_CHOICE,
    ),
    "gs-vqvae": Method(
        "GS-VQ-VAE", (SONNET, "tokenizer.quantizer={kind: gs-vqvae}", KL, ANNEALED), SONNET_CHOICE
    ),
    "sqvae": Method(
        "SQ-VAE",
        (
            "tokenizer.network={kind: sqvae, form: net_32, width: 64, residual_layers: 2}",
            *SQVAE,
            "tokenizer.quantizer.code_dim=16",
        ),
        "The paper says neither which type nor how 16 dimensions fit a network that is as wide as "
        "a code: here type I, and 64 channels with a 1 x 1 convolution to 16. Steps, batch and "
        "rate are those of the other methods.",
    ),
    "vqste": Method(
        "VQ-STE++",
        (
            SONNET,
            "tokenizer.quantizer={kind: vq-ste++, beta: 0.98, synchronisation: 0.2}",
            constants(vq=10.0),
        ),
        'The paper says "proposed architectures and hyperparameters": here those of the released '
        "code's example, on the network of VQ-VAE-EMA. Steps, batch and rate are those of the "
        "other methods.",
    ),
    "dvae": Method(
        "dVAE",
        (CONV, "tokenizer.quantizer={kind: dvae}", KL, "objective.weights.kl.end=5e-5", ANNEALED),
    ),
    "edvae": Method(
        "EdVAE",
        (CONV, "tokenizer.quantizer={kind: edvae}", KL, "objective.weights.kl.end=5e-7", ANNEALED),
        "The KL is exact where the released code's float32 form is not (kl: torch).",
    ),
}
LARGE_SQVAE = ("tokenizer.network.form=net_64", "tokenizer.network.residual_layers=6")
LARGE_KERNEL = "tokenizer.network.kernel_size=7"
ONLY_HERE = {
    ("sqvae", "celeba"): LARGE_SQVAE,
    ("sqvae", "lsun-church"): LARGE_SQVAE,
    ("dvae", "lsun-church"): (LARGE_KERNEL,),
    ("edvae", "celeba"): ("objective.weights.kl.end=1e-7",),
    ("edvae", "lsun-church"): ("objective.weights.kl.end=1e-7", LARGE_KERNEL),
}
# perplexity, MSE x 10^3, FID, precision and recall (Tables 1 to 4)
TABLES = {
    ("vqvae-ema", "cifar10"): "412.67 ± 2.05, 3.21 ± 0.05, 57.04 ± 2.32, 0.47, 0.32",
    ("vqvae-ema", "celeba"): "405.33 ± 5.88, 1.07 ± 0.06, 34.30 ± 2.41, 0.44, 0.35",
    ("vqvae-ema", "lsun-church"): "379.67 ± 3.09, 1.71 ± 0.05, 71.22 ± 2.72, 0.19, 0.15",
    ("gs-vqvae", "cifar10"): "208.33 ± 6.03, 3.63 ± 0.01, 56.35 ± 2.17, 0.45, 0.34",
    ("gs-vqvae", "celeba"): "193.33 ± 10.68, 1.32 ± 0.02, 33.12 ± 1.30, 0.39, 0.32",
    ("gs-vqvae", "lsun-church"): "189.67 ± 5.02, 1.84 ± 0.06, 72.52 ± 3.25, 0.20, 0.14",
    ("sqvae", "cifar10"): "407.33 ± 7.32, 4.01 ± 0.03, 54.17 ± 2.85, 0.52, 0.30",
    ("sqvae", "celeba"): "409.33 ± 2.05, 1.05 ± 0.02, 33.03 ± 1.04, 0.52, 0.37",
    ("sqvae", "lsun-church"): "374.00 ± 2.16, 1.79 ± 0.03, 63.41 ± 2.36, 0.23, 0.17",
    ("vqste", "cifar10"): "414.33 ± 9.10, 3.82 ± 0.1, 55.53 ± 1.97, 0.51, 0.32",
    ("vqste", "celeba"): "370.33 ± 4.11, 1.11 ± 0.08, 32.98 ± 2.27, 0.47, 0.36",
    ("vqste", "lsun-church"): "375.67 ± 5.58, 1.83 ± 0.03, 71.03 ± 1.95, 0.24, 0.15",
    ("dvae", "cifar10"): "190.33 ± 13.02, 3.42 ± 0.08, 58.85 ± 0.93, 0.43, 0.34",
    ("dvae", "celeba"): "254.67 ± 11.08, 1.01 ± 0.08, 37.29 ± 3.14, 0.41, 0.30",
    ("dvae", "lsun-church"): "363.33 ± 4.07, 1.60 ± 0.01, 71.32 ± 0.71, 0.20, 0.15",
    ("edvae", "cifar10"): "420.33 ± 4.49, 2.99 ± 0.04, 51.82 ± 1.58, 0.54, 0.35",
    ("edvae", "celeba"): "371.33 ± 2.86, 0.89 ± 0.01, 32.51 ± 1.13, 0.48, 0.35",
    ("edvae", "lsun-church"): "385.67 ± 5.63, 1.58 ± 0.01, 69.63 ± 1.29, 0.28, 0.18",
}
CLAMPED = {  # perplexity by the largest logit (Table D.6); None: diverged
    "cifar10": {10: 351, 15: 421, 20: 425, 25: 411, 30: None},
    "celeba": {10: 319, 15: 376, 20: 386, 25: None, 30: None},
    "lsun-church": {10: 363, 15: 375, 20: 393, 25: None, 30: None},
}
HEATED = {  # perplexity by temperature (App. D.1)
    "cifar10": {2: 170, 5: 180},
    "celeba": {2: 217, 5: 296},
}
BETAS = ("1e-7", "5e-7", "1e-6", "5e-6", "1e-5", "5e-5", "1e-4")
SIZES, DIMS = (128, 256, 512, 1024, 2048), (8, 16, 32, 64, 128, 256)  # Fig. 6


def edvae_paper() -> Iterator[Cell]:
    """Tables 1 to 4, then appendix D and Fig. 6."""
    for kind, dataset in TABLES:
        yield table_cell(kind, dataset)
    for kind, dataset in TABLES:
        _, _, fid, precision, recall = TABLES[kind, dataset].split(", ")
        expected = f"FID {fid}, precision {precision}, recall {recall}"
        yield table_cell(kind, dataset).with_prior(pixelsnail(dataset), expected)
    for dataset in CLAMPED:
        yield from clamped(table_cell("edvae", dataset))
    for dataset in HEATED:
        yield from heated(table_cell("dvae", dataset))
    for dataset in CLAMPED:
        for cell in (table_cell("dvae", dataset), table_cell("edvae", dataset)):
            for beta in BETAS:
                setting = f"objective.weights.kl.end={beta}"
                yield cell.changed(f"beta-{beta}", f"KL weight {beta}", "Fig. D.10", setting)
    for kind, dataset in TABLES:
        if dataset != "lsun-church":
            yield from resized(table_cell(kind, dataset))


def table_cell(kind: str, dataset: str) -> Cell:
    """One of Tables 1 to 4."""
    method = METHODS[kind]
    perplexity, mse, fid, precision, recall = TABLES[kind, dataset].split(", ")
    return Cell(
        path=f"{dataset}/{kind}",
        dataset=dataset,
        method=method.name,
        variant="",
        source="Tables 1 to 4",
        expected=f"MSE x 10^3: {mse}, perplexity {perplexity}; with a PixelSNAIL prior FID {fid}, "
        f"precision {precision}, recall {recall}",
        choices=method.choices,
        settings=(*RUN, *method.settings, *ONLY_HERE.get((kind, dataset), ())),
    )


def pixelsnail(dataset: str) -> Method:
    """The prior of the tables."""
    images, batch_size = {
        "cifar10": (50_000, 128),
        "celeba": (162_770, 128),
        "lsun-church": (126_227, 32),
    }[dataset]
    return Method(
        "PixelSNAIL",
        (
            *prior_run_of(500 * images // batch_size, batch_size, "{kind: pixelsnail}"),
            "train.ema_decay=0.9995",
        ),
        "The paper says 500 epochs and nothing else; here it may end early, on held-out codes.",
    )


def clamped(cell: Cell) -> Iterator[Cell]:
    """Table D.6 with the exact KL and with that of the released code."""
    for clamp, perplexity in CLAMPED[cell.dataset].items():
        for kl in ("exact", "torch"):
            settings = f"tokenizer.quantizer.max_logit={clamp}.0", f"tokenizer.quantizer.kl={kl}"
            name = f"clamp-{clamp}" + ("-torch-kl" if kl == "torch" else "")
            variant = f"logits clamped at {clamp}, KL {kl}"
            yield cell.changed(name, variant, "Table D.6", *settings)._replace(
                expected=f"perplexity {perplexity}" if perplexity else "divergence",
                choices="The released code's KL (torch) loses its gradient beyond logits of about "
                "18; the exact one may behave otherwise there.",
            )


def heated(cell: Cell) -> Iterator[Cell]:
    """Appendix D.1."""
    for start, perplexity in HEATED[cell.dataset].items():
        setting = f"objective.temperature.start={start}.0"
        variant = f"temperature {start}"
        yield cell.changed(f"temperature-{start}", variant, "App. D.1", setting)._replace(
            expected=f"perplexity {perplexity}",
            choices="The paper does not say whether the temperature stays: here it decays as "
            f"before, from {start}.",
        )


def resized(cell: Cell) -> Iterator[Cell]:
    """Fig. 6."""
    for size in SIZES:
        setting = f"tokenizer.quantizer.num_codes={size}"
        yield cell.changed(f"codes-{size}", f"{size} codes", "Fig. 6", setting)
    for dim in DIMS:
        setting = f"tokenizer.quantizer.code_dim={dim}"
        yield cell.changed(f"dim-{dim}", f"codes of {dim} dimensions", "Fig. 6", setting)
