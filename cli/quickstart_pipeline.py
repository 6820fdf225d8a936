"""The quickstart on the included digits: train, encode, train a prior, sample, evaluate, report."""

import logging
import time
from pathlib import Path

import torch
from torch import Tensor

import imagetok
import prior
from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.config import validate
from imagetok.data import ImageDataset, open_image, open_images, preprocess
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.evaluation import nearest_labels
from imagetok.images import to_unit_range
from imagetok.named_configs import NamedConfig, find_config
from imagetok.processes import one_thread, peak_memory_mb
from imagetok.reporting import Commands, Numbers, ReportSection, write_report
from imagetok.tokenizers import Tokenizer
from imagetok.training.config import TokenizerRun
from prior.generation import generate
from prior.report_folders import open_all
from prior.reports import sections_of_all

logger = logging.getLogger("imagetok")
NUM_SAMPLES = 200
NEIGHBOURS = 5
SPLITS = ("train", "test")


@one_thread()  # with models this small, two threads mostly wait for each other
def run_quickstart(out: Path, recipe: Path | None = None) -> dict[str, float | int]:
    """Run every step in the folder `out`, or continue there; return the content of summary.json.

    recipe: a folder with edvae.yaml and gpt.yaml for the digits (default: the named configs
    digits/edvae and digits/gpt).

    Raises ConfigError if `out` holds files but no quickstart.
    """
    begun = time.perf_counter()
    if out.is_dir() and any(out.iterdir()) and not (out / "edvae").is_dir():
        raise ConfigError(
            f"{out}: the folder is not empty and holds no quickstart; choose another --out"
        )
    edvae, gpt = _configs(recipe)
    config = validate(edvae.tree, TokenizerRun, edvae.where)
    _say(1, f"train a tokenizer on 1,617 digits ({config.train.steps} steps, 2 to 3 minutes)")
    trained = imagetok.train(edvae.where, out=out / "edvae", resume=True, device="cpu")
    _say(2, "encode the digits to code shards (seconds)")
    tokenizer = trained.tokenizer
    datasets = {split: open_images(config.data, split, tokenizer.image) for split in SPLITS}
    for split in SPLITS:
        _encode(tokenizer, datasets[split], out, split)
    _say(3, "train a GPT prior on the codes (1 to 3 minutes)")
    places = {
        "data.source": out / "codes" / "train",
        "data.test": out / "codes" / "test",
        "tokenizer": trained.artifact,
    }
    prior.train(gpt.where, out=out / "gpt", set=places, resume=True, device="cpu")
    _say(4, f"sample {NUM_SAMPLES} new digits (seconds)")
    samples, labels = _sample(out, tokenizer)
    _say(5, "classify the samples by their nearest real digits, and write the report (seconds)")
    agreement, accuracy = _class_agreement(samples, labels, datasets)
    summary: dict[str, float | int] = {
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_memory_mb": round(peak_memory_mb()),
        "psnr_db": trained.measures["psnr_db"],
        "num_codes": trained.measures["num_codes"],
        "codes_used": trained.measures["codes_used"],
        "class_agreement": agreement,
        "classifier_accuracy": accuracy,
        "num_samples": NUM_SAMPLES,
    }
    write_json(out / "summary.json", summary)
    made = open_all([out / name for name in ("edvae", "gpt", "samples")], torch.device("cpu"))
    sections = [_numbers_section(summary), *sections_of_all(made, 0), _commands_section(edvae, gpt)]
    write_report(
        out / "report.html",
        "imagetok quickstart",
        sections,
        "Handwritten digits: a tokenizer, its codes, a prior and new images",
        f"Measured on the 180 held-out digits, and on {NUM_SAMPLES} samples of the prior",
    )
    return summary


def _configs(folder: Path | None) -> tuple[NamedConfig, NamedConfig]:
    """Return the configs of the tokenizer and of the prior."""
    names = ("digits/edvae", "digits/gpt")
    if folder is not None:
        names = (str(folder / "edvae.yaml"), str(folder / "gpt.yaml"))
    return find_config(names[0]), find_config(names[1])


def _say(stage: int, what: str) -> None:
    logger.info("[%d/5] %s", stage, what)


def _encode(tokenizer: Tokenizer, dataset: ImageDataset, out: Path, split: str) -> None:
    plan = make_plan(tokenizer, dataset, source=f"digits:{split}", name="edvae/tokenizer")
    encode_dataset(tokenizer, dataset, out / "codes" / split, plan)


def _sample(out: Path, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Return the sampled images, as read from their PNG files, and the requested classes."""
    folder = out / "samples"
    for old in folder.glob("*"):  # from an interrupted run; the same samples are drawn again
        old.unlink()
    samples = generate(out / "gpt" / "prior", NUM_SAMPLES, out=folder, seed=0, device="cpu")
    files = [folder / f"{j:06d}.png" for j in range(NUM_SAMPLES)]
    images = torch.stack([preprocess(open_image(file), tokenizer.image) for file in files])
    return to_unit_range(images), torch.tensor(samples.labels)


def _class_agreement(
    samples: Tensor, labels: Tensor, datasets: dict[str, ImageDataset]
) -> tuple[float, float]:
    """Return (share of samples classified as the requested class, held-out k-NN accuracy)."""
    real = {split: data.read(range(len(data))) for split, data in datasets.items()}
    references = to_unit_range(real["train"].images)
    answers = {
        name: nearest_labels(queries, references, real["train"].labels, NEIGHBOURS)
        for name, queries in (("samples", samples), ("test", to_unit_range(real["test"].images)))
    }
    agreement = (answers["samples"] == labels).double().mean()
    accuracy = (answers["test"] == real["test"].labels).double().mean()
    return float(agreement), float(accuracy)


def _numbers_section(summary: dict[str, float | int]) -> ReportSection:
    return ReportSection(
        "Summary",
        [
            Numbers(
                [
                    (
                        "samples classified as requested",
                        f"{summary['class_agreement']:.1%}",
                        f"of {NUM_SAMPLES}, by the {NEIGHBOURS} nearest real digits, which "
                        f"recognise {summary['classifier_accuracy']:.1%} of the held-out ones",
                    ),
                    (
                        "reconstruction quality",
                        f"{summary['psnr_db']:.1f} dB",
                        "mean PSNR over the 180 held-out digits",
                    ),
                    (
                        "codebook utilisation",
                        f"{summary['codes_used']} of {summary['num_codes']}",
                        "codes that occur in the held-out digits",
                    ),
                    (
                        "time",
                        f"{summary['seconds']:.0f} s",
                        "of the last run of the quickstart; peak memory "
                        f"{summary['peak_memory_mb']:,} MB",
                    ),
                ]
            )
        ],
    )


def _commands_section(edvae: NamedConfig, gpt: NamedConfig) -> ReportSection:
    run = "runs/digits-edvae"
    encode = f"imagetok encode --tokenizer {run}/tokenizer --data digits"
    return ReportSection(
        "Run the steps yourself",
        [
            Commands(
                [
                    f"imagetok train {edvae.where} --out {run}",
                    f"{encode}:train --shards {run}/codes/train",
                    f"{encode}:test --shards {run}/codes/test",
                    f"imagetok train {gpt.where} --out runs/digits-gpt",
                    f"imagetok sample --prior runs/digits-gpt/prior -n {NUM_SAMPLES} --out samples",
                ],
                caption="The steps of the quickstart as separate commands.",
            )
        ],
    )


__all__ = ["run_quickstart"]
