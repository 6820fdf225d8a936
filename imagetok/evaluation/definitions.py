"""What the measures of tokenizers and priors are, in a few words each, by their names on disk."""

import re

DEFINITIONS = {
    "num_images": "images that were measured",
    "skipped": "images that were left out, because they cannot be read",
    "mse": "mean squared error on [0, 1], reconstruction not clamped",
    "psnr_db": "mean over images of the clamped reconstruction's PSNR, dB",
    "ssim": "mean over images, 11 x 11 Gaussian windows of sigma 1.5 inside the image",
    "pixel_accuracy": "of label maps: the share of all pixels whose class is reconstructed",
    "miou": "of label maps: intersection over union over the split, mean over classes that occur",
    "perplexity": "effective number of hard codes, over the whole split",
    "perplexity_batch128": "effective number of hard codes, mean over whole batches of 128 images",
    "perplexity_batch128_all": "the same with the last, smaller batch, as imagetok 0.2 measured it",
    "perplexity_batch32": "effective number of hard codes, mean over batches of 32, also the last",
    "codes_used": "codes that occur in the split",
    "num_codes": "codes in the codebook",
    "dead_codes": "codes that never occur in the split",
    "commitment": "squared distance of encoder output and code, mean over positions and dimensions",
    "commitment_norm": "norm over dimensions of those squared differences, mean over positions",
    "entropy": "of the encoder's code probabilities, nats, mean over positions; 0 if it is sure",
    "entropy_std": "standard deviation of that entropy over positions, nats",
    "top_logit": "largest logit of the encoder, mean over positions",
    "max_logit": "largest logit of the encoder in the split",
    "uncertainty": "EdVAE's K / S, mean over positions, from 0 (sure) to 1",
    "variance": "of the stochastic quantizer, mean over positions",
    "margin": "squared distance of the second nearest code minus the nearest, mean over positions",
    "encoder_norm": "norm of the encoder's output, mean over positions",
    "bits_per_code": "bits for a held-out code under the prior",
    "bits_per_image": "bits for all codes of a held-out image",
    "bits_per_pixel": "the same for each pixel of the image",
    "order0_bits_per_code": "baseline: bits for a code by code frequencies alone",
    "order1_bits_per_code": "baseline: bits for a code by the code before it",
}
"""Definition of each measure, without the level that its name may end with."""
BETTER = {
    "higher": {"psnr_db", "ssim", "pixel_accuracy", "miou", "codes_used"}
    | {"perplexity", "perplexity_batch128", "perplexity_batch32"},
    "lower": {"mse", "commitment", "commitment_norm", "bits_per_code", "bits_per_image"}
    | {"bits_per_pixel", "dead_codes"},
}
"""Which direction is better, for measures that have one."""


def explained(name: str) -> str:
    """Return the definition of a measure and which direction is better; "" if it is unknown.

    >>> explained("bits_per_code_level1")
    'bits for a held-out code under the prior; lower is better'
    """
    plain = re.sub(r"_level\d+$", "", name)
    better = "".join(f"; {way} is better" for way, names in BETTER.items() if plain in names)
    return f"{DEFINITIONS[plain]}{better}" if plain in DEFINITIONS else ""
