"""`imagetok.evaluate`: measures of reconstructions or of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from imagetok.arguments import checked_count
from imagetok.data import ImageDataset
from imagetok.data.inputs import ImageInput, open_inputs, warn_of_training_images
from imagetok.data.readable import advising_to_skip, readable
from imagetok.data.subset import ImageSubset
from imagetok.data.unreadable import Unreadable
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.evaluation.feature_networks import NetworkSpecs, open_networks
from imagetok.evaluation.lpips import PerceptualSpecs, open_distances
from imagetok.evaluation.pace import Pace
from imagetok.evaluation.protocols import protocol_named, with_crop
from imagetok.evaluation.records import (
    MeasureRecord,
    measure_reconstructions,
    measure_samples,
    read_record,
    side_by_side,
)
from imagetok.images import pixels_text
from imagetok.io.output_paths import output_file, output_folder
from imagetok.processes import process_state
from imagetok.progress import progress_shown
from imagetok.results import Result
from imagetok.tokenizers import Autoencoder
from imagetok.tokenizers.loading import device_for, display_name, open_autoencoder


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """The result of `evaluate`: measures on one split, and earlier records to compare with."""

    subject: str
    """The tokenizer or the folder of samples, as passed to `evaluate`."""
    data: str
    record: MeasureRecord
    """Measures with subject and identity, as written to `out`."""
    beside: Mapping[str, MeasureRecord]
    """Name -> earlier record."""
    skipped: tuple[Unreadable, ...] = ()
    """Images of the data that are left out, because they cannot be read."""
    pixels: str = ""
    """Size and mode of the images as they were measured, such as "32 x 32 rgb"; "" for codes."""

    @property
    def measures(self) -> Mapping[str, float | int]:
        """Measures by name; docs/reference/measures.md explains them."""
        return self.record["measures"]

    def title(self) -> str:
        """Return a title: the subject, the data, and the size of its images."""
        size = f", images of {self.pixels}" if self.pixels else ""
        return f"{self.subject} on {self.data}{size}"

    def table(self) -> dict[str, dict[str, float | int]]:
        """Return a row per measure and a column per record, `this` first; mse is x 10^3."""
        rows = side_by_side({"this": self.record, **self.beside})
        return {
            "mse x 10^3" if name == "mse" else name: {
                column: 1e3 * value if name == "mse" else value for column, value in row.items()
            }
            for name, row in rows.items()
        }

    def rows(self) -> dict[str, object]:
        """Return the measures by name."""
        return dict(self.measures)


@advising_to_skip()
def evaluate(
    tokenizer: Autoencoder | Path | str,
    data: ImageInput,
    *,
    samples: ImageDataset | Path | str | None = None,
    reference_count: int | None = None,
    protocol: str | None = None,
    feature_cache: Path | str | None = None,
    features: NetworkSpecs = (),
    lpips: PerceptualSpecs = (),
    beside: Path | str | Sequence[Path | str] | Mapping[str, MeasureRecord] = (),
    out: Path | str | None = None,
    max_skip: int | str = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure reconstructions and codebook utilisation on a data split, or samples of a prior.

    tokenizer: a Tokenizer or VAE, its folder, or a Hub id. data: a spec such as `digits:test`, a
    path, or any other image input (see `open_inputs`), resized and cropped as for the tokenizer.
    samples: images to compare with `data` in place of reconstructions, by features only: a folder
    or npz file, as written by `imagetok sample`, or a dataset (for a prior, use
    `prior.evaluate_samples`).
    reference_count: number of images of `data` that samples are compared with, a subset drawn with
    a fixed seed; None is all of them. protocol: name of a published protocol (see
    `imagetok.protocols`), which fixes crop, counts and reference; its name is in the identity.
    feature_cache: a folder that keeps the features of `data`, for measurements that share them.
    features: networks to measure distances in: "inception", "vgg16", "torchvision:MODEL" (each also
    with =FILE), "cifar-resnet=FILE", "python:MODULE:FUNCTION", or a FeatureNetwork. lpips: "alex"
    or "vgg" (each also with =FILE), or a PerceptualDistance. beside: earlier records, or files
    written by `out`, to show in one table with this one. out: a JSON file for the measures.
    max_skip: unreadable images of `data` to leave out, a count or a percentage such as "1%"; with
    it, every image is decoded once before the measurement. batch_size: images per batch of a
    feature network; None: 100 on a CPU, on a GPU as many as make each image cheaper, which
    `subject` then records as `batch_sizes`; features may depend on it by rounding. workers: loader
    workers, processes that read the next images; None: see `encode`.

    In a distributed run every process has to call this; each gets the result, one writes it.

    Raises ConfigError if a record in `beside` was measured differently, for samples without
    features, for a reference_count without samples or above the number of images, and for anything
    that the protocol fixes otherwise; NotFiniteError if reconstructions are not finite;
    ArtifactError and InputError for unreadable tokenizers and records, and for more unreadable
    images than max_skip; ResourceError if
    weights or libraries are missing.

    Example: `imagetok.evaluate("runs/a/tokenizer", "digits:test").measures["psnr_db"]`
    """
    file, where = output_file(out), device_for(tokenizer, device)
    pace = Pace(
        None if workers is None else checked_count("workers", workers, least=0),
        None if batch_size is None else checked_count("batch_size", batch_size),
    )
    records, cache = read_records(beside), output_folder(feature_cache)
    networks, distances = open_networks(features, where), open_distances(lpips, where)
    model = open_autoencoder(tokenizer, device)
    rules = None if protocol is None else protocol_named(protocol)
    image = model.image if rules is None else with_crop(model.image, rules)
    dataset, source = open_inputs(data, image)
    with progress_shown(progress):
        dataset = readable(dataset, max_skip)
    if reference_count is not None:
        dataset = _reference(dataset, samples, reference_count, protocol)
    with progress_shown(progress):
        if samples is None:
            warn_of_training_images(data, source)
            record = measure_reconstructions(
                model, dataset, networks, distances, records, rules, cache, pace
            )
        elif distances:
            raise ConfigError("--lpips: measures reconstructions only; omit it, or omit --samples")
        else:
            drawn = Path(samples) if isinstance(samples, str) else samples
            record = measure_samples(drawn, dataset, networks, records, rules, cache, pace)
    record["subject"]["data"] = source
    if pace.batch_sizes:
        record["subject"]["batch_sizes"] = pace.batch_sizes
    if dataset.skipped:
        record["subject"]["skipped"] = [asdict(image) for image in dataset.skipped]
    if file is not None and process_state().is_main_process:
        write_json(file, record)
    subject = display_name(tokenizer) if samples is None else record["subject"]["samples"]
    pixels = pixels_text(dataset.contract)
    return Evaluation(subject, source, record, records, dataset.skipped, pixels)


def _reference(
    dataset: ImageDataset, samples: object, count: int, protocol: str | None
) -> ImageDataset:
    """Return the images that samples are compared with; ConfigError without samples."""
    if protocol is not None:
        raise ConfigError(
            f"--protocol {protocol}: fixes the reference images, but found --reference-count "
            f"{count:,}; omit one or the other"
        )
    if samples is None:
        raise ConfigError(
            "--reference-count: applies to samples; reconstructions are compared with all their "
            "images; omit it, or add --samples"
        )
    return ImageSubset(dataset, count)


def read_records(
    beside: Path | str | Sequence[Path | str] | Mapping[str, MeasureRecord],
) -> dict[str, MeasureRecord]:
    """Return records by name; files are read and named by their paths."""
    if isinstance(beside, Mapping):
        return dict(beside)
    several = [beside] if isinstance(beside, str | Path) else beside
    return {str(file): read_record(Path(file)) for file in several}
