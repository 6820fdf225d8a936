"""Published protocols of evaluation, as data: what each fixes, for `imagetok evaluate`."""

from typing import Any, NamedTuple

PUBLISHED_SAMPLES = 50_000
"""Samples that papers measure distances with."""


class Protocol(NamedTuple):
    """What a protocol fixes; None leaves a value free."""

    name: str
    summary: str
    """What it fixes, in one line."""
    reports: tuple[str, ...]
    """Names of the measures that are published with it."""
    networks: tuple[str, ...]
    """Feature networks that samples are measured with."""
    num_samples: int = PUBLISHED_SAMPLES
    reference_split: str | None = "train"
    """Split of the images that samples are compared with; all of its images are used."""
    num_reference: int | None = None
    """Number of these images."""
    manifold: tuple[int, int] = (PUBLISHED_SAMPLES, PUBLISHED_SAMPLES)
    """At most so many reference images and samples enter precision and recall."""
    reconstruction_split: str | None = None
    """Split whose reconstructions are measured; None with no number: only samples are measured."""
    num_reconstructions: int | None = None
    image: dict[str, Any] | None = None
    """Keys of the image contract: size, mode and crop of all images."""

    @property
    def has_reconstructions(self) -> bool:
        """Whether the protocol also says how reconstructions are measured."""
        return (self.reconstruction_split, self.num_reconstructions) != (None, None)


_ALL = (
    # openai/guided-diffusion: evaluations/README.md, evaluator.py, image_datasets.py. The published
    # reference has the statistics of all training images, and 10,000 images for precision, recall.
    Protocol(
        "imagenet-256",
        "ImageNet at 256 x 256 as for ADM: its centre crop, 50,000 samples against all 1,281,167 "
        "training images, precision and recall against 10,000 of them",
        reports=("fid", "inception_score", "precision_inception", "recall_inception"),
        networks=("inception",),
        reference_split=None,  # a folder of the training images has no split
        num_reference=1_281_167,
        manifold=(10_000, PUBLISHED_SAMPLES),
        num_reconstructions=50_000,
        image={
            "mode": "rgb",
            "height": 256,
            "width": 256,
            "centre_crop": None,
            "resize": "adm",
            "interpolation": "bicubic",
        },
    ),
    # The count and reference of the FID of Heusel et al. (2017) on CIFAR-10 and its successors.
    Protocol(
        "cifar10-50k",
        "CIFAR-10 at 32 x 32: 50,000 samples against the 50,000 training images",
        reports=("fid", "inception_score"),
        networks=("inception",),
        num_reference=50_000,
        image={"mode": "rgb", "height": 32, "width": 32},
    ),
    # Counts and reference split are not stated in either paper: those of the measures' own papers.
    Protocol(
        "edvae-paper",
        "the EdVAE paper: reconstructions of the test split, perplexity in batches of 128; 50,000 "
        "samples against the training split, precision and recall of at most 50,000 of both",
        reports=("mse", "perplexity_batch128", "fid", "precision", "recall"),
        networks=("inception", "vgg16"),
        reconstruction_split="test",
    ),
    Protocol(
        "sqvae-paper",
        "the SQ-VAE paper: reconstructions of the test split (rFID against it), perplexity in "
        "batches of 32; 50,000 samples against the training split",
        reports=("mse", "perplexity_batch32", "rfid", "fid"),
        networks=("inception",),
        reconstruction_split="test",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
"""Protocols by name."""
