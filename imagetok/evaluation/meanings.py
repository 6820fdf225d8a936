"""What the names of measures mean, in a sentence each; docs/explanation/measures.md says more."""

import re
from collections.abc import Iterable, Mapping

MEANINGS: Mapping[str, str] = {
    "num_images": "images that were measured",
    "skipped": "images that were left out, because they cannot be read",
    "mse": "mean squared error on [0, 1], reconstruction not clamped; lower is better",
    "psnr_db": "peak signal-to-noise ratio in dB of the clamped reconstruction, mean over images; "
    "higher is better",
    "ssim": "structural similarity, 1 for equal images: 11 x 11 Gaussian windows of sigma 1.5, "
    "mean over images",
    "pixel_accuracy": "of label maps: the share of all pixels whose class is reconstructed; higher "
    "is better",
    "miou": "of label maps: intersection over union, mean over the classes that occur; higher is "
    "better",
    "perplexity": "how evenly hard codes are used over the split: K if all are used equally, 1 if "
    "only one is used",
    "perplexity_batch128": "perplexity of hard codes, mean over whole batches of 128 images in "
    "order",
    "perplexity_batch128_all": "the same with the last, smaller batch, as imagetok 0.2 measured it",
    "perplexity_batch32": "perplexity of hard codes, mean over batches of 32 images in order, also "
    "the last",
    "commitment": "squared distance of encoder output and code, mean over positions and dimensions",
    "commitment_norm": "norm over dimensions of the squared differences of encoder output and "
    "code, mean over positions",
    "num_codes": "codebook size K",
    "codes_used": "codes that occur in the split",
    "dead_codes": "codes that never occur in the split",
    "entropy": "entropy of the code probabilities in nats, mean over positions: 0 if the encoder "
    "is certain, log K if it is undecided",
    "entropy_std": "standard deviation over positions of the entropy of the code probabilities",
    "uncertainty": "K / S, the codebook size over the sum of the concentrations of the encoder's "
    "Dirichlet distribution: 1 without evidence, near 0 with much evidence",
    "top_logit": "largest logit of a position, mean over positions",
    "max_logit": "largest logit of all; in EdVAE, the usual float32 form of the Dirichlet KL has "
    "no gradient above 18",
    "margin": "squared distance of the encoder output to the second nearest code minus that to the "
    "nearest one, mean over positions",
    "encoder_norm": "norm of the encoder output, mean over positions",
    "variance": "variance of the stochastic quantization; it usually falls during training",
    "bits_per_code": "mean negative log2-likelihood of held-out codes under the prior, given the "
    "labels; lower is better",
    "bits_per_image": "bits per code times the number of codes of an image; lower is better",
    "bits_per_pixel": "bits per image, divided by height x width of the image; lower is better",
    "order0_bits_per_code": "bits per code of a unigram baseline, which knows how often each code "
    "occurs in the training codes",
    "order1_bits_per_code": "bits per code of a bigram baseline, which also knows the code on the "
    "left",
    "lpips": "perceptual distance in the features of that network, mean over images; lower is "
    "better",
    "fid": "Fréchet distance of Gaussians fitted to Inception features; lower is better",
    "kid": "unbiased squared kernel distance of Inception features; lower is better",
    "frechet": "Fréchet distance of Gaussians fitted to the features of that network; lower is "
    "better",
    "kernel": "unbiased squared kernel distance of the features of that network; lower is better",
    "precision": "share of samples that lie among the images in feature space",
    "recall": "share of images that lie among the samples in feature space",
    "inception_score": "how sure and how diverse the Inception classifier's answers are",
    "classifier_score": "how sure and how diverse the answers of that classifier are",
    "class_agreement": "share of reconstructions classified as their image is",
    "class_accuracy": "share of images classified as their label, or as the requested class",
}
_OF_A_NETWORK = ("lpips", "frechet", "kernel", "precision", "recall", "classifier_score")
_OF_A_NETWORK += ("class_agreement", "class_accuracy")
"""Measures whose name may end in that of a network."""


def meaning_of(name: str) -> str:
    """Return what a name means, also with that of a network or level; "" for an unknown one."""
    key = _key(re.sub(r"_level\d+$", "", name))
    return "" if key is None else MEANINGS[key]


def meanings_of(names: Iterable[str]) -> dict[str, str]:
    """Return what each name means, in order: one entry for all levels, none for unknown names."""
    plain = (re.sub(r"_level\d+$", "", name) for name in names)
    return {name: meaning for name in plain if (meaning := meaning_of(name))}


def _key(name: str) -> str | None:
    """Return the entry of a measure; names of reconstructions begin with r, as in rfid."""
    for candidate in (name, name.removeprefix("r")):
        if candidate in MEANINGS:
            return candidate
        for measure in _OF_A_NETWORK:
            if candidate.startswith(f"{measure}_"):
                return measure
    return None
