"""Drawing images and code datasets from a prior, resumable and shared over processes.

No click here.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imagetok.codes.commit import EncodeReport, begin_with, continue_with
from imagetok.codes.decode import decode_in_batches, picture_file, save_images
from imagetok.codes.plan import Plan, TokenizerId, read_json
from imagetok.codes.production import write_dataset
from imagetok.codes.writer import EncodedPart
from imagetok.config import Section
from imagetok.durable import canonical_json, lock, write_json
from imagetok.errors import InputError
from imagetok.pictures import save_grid
from imagetok.processes import device_of, process_state
from imagetok.progress import ProgressBar
from imagetok.stopping import StopRequest
from imagetok.tokenizers import Tokenizer
from prior import Prior
from prior.sampling import micro_batch_on

RECORD, GRID = "samples.json", "grid.png"
CHUNK = 64
"""Images drawn, decoded and written together: what a killed run loses at most."""
MOST_IN_GRID = 100


class Drawing(TypedDict, total=False):
    """How codes are drawn; see `Prior.sample`."""

    label: Sequence[int | str] | None
    temperature: float
    top_k: int | None
    top_p: float | None
    greedy: bool
    guidance: float
    seed: int


class Samples(Section):
    """What made a folder of samples; image j has class labels[j % len(labels)], -1 = none."""

    prior: str
    origin: str | None
    """Where the prior came from; only for people."""
    tokenizer: str
    num_images: int
    labels: tuple[int, ...]
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False
    guidance: float = 1.0
    seed: int = 0


class Drawn(NamedTuple):
    """What a run added to a folder."""

    labels: list[int]
    """Of all images there."""
    num_new: int


def load_pair(
    prior_source: Path | str, tokenizer_source: Path | str | None, device: torch.device
) -> tuple[Prior, Tokenizer]:
    """A prior and its tokenizer: the one embedded in it, or one of the same fingerprint."""
    prior = Prior.from_pretrained(prior_source)
    assert prior.tokenizer_folder is not None
    tokenizer = Tokenizer.from_pretrained(tokenizer_source or prior.tokenizer_folder)
    prior.check_tokenizer(tokenizer.fingerprint, str(tokenizer_source or prior_source))
    return prior.to(device), tokenizer.to(device)


def sample_images(prior: Prior, tokenizer: Tokenizer, out: Path, n: int, drawing: Drawing) -> Drawn:
    """Draw n images into `out`: samples.json, NNNNNN.png, at the end grid.png.

    A rerun continues, also with a larger n. Chunks are shared over the processes of a distributed
    run. Raises ConfigError for bad settings and when `out` holds anything else, StoppedError after
    a signal (rerun to continue).
    """
    record, state = record_of(prior, tokenizer, n, drawing), process_state()
    chunks = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    with lock(out) if state.is_main_process else nullcontext(), StopRequest() as stop:
        if state.is_main_process:
            _commit_record(out, record)
        state.wait_for_everyone()
        missing = [[j for j in chunk if not picture_file(out, j).is_file()] for chunk in chunks]
        state.wait_for_everyone()  # all have looked before any writes
        mine = range(state.process_index, len(chunks), state.num_processes)
        todo = [i for i in mine if missing[i]]
        total, done = sum(len(chunks[i]) for i in todo), 0
        is_main = state.is_main_process
        with ProgressBar("sampling", total, 0, is_main, rate_unit="images/s") as progress:
            for i in todo:
                stop.check_here()
                codes = prior.sample(len(chunks[i]), first=chunks[i].start, **drawing)
                images = decode_in_batches(tokenizer, codes)
                save_images(images[[j - chunks[i].start for j in missing[i]]], out, missing[i])
                done += len(chunks[i])
                progress.update(done)
        state.wait_for_everyone()
        if state.is_main_process:
            _save_grid(out, record)
        state.wait_for_everyone()
    labels = [record.labels[j % len(record.labels)] for j in range(n)]
    return Drawn(labels, sum(map(len, missing)))


def sample_shards(
    prior: Prior,
    tokenizer: Tokenizer,
    folder: Path,
    n: int,
    drawing: Drawing,
    samples_per_shard: int = 1024,
) -> EncodeReport:
    """Draw the codes of n images as a code dataset of the tokenizer; keys are the images' numbers.

    Shards are shared over processes; a rerun continues where one was stopped. Raises as
    `sample_images` does.
    """
    plan = _plan(record_of(prior, tokenizer, n, drawing), prior, tokenizer, samples_per_shard)
    return write_dataset(
        folder, plan, lambda images: _parts(prior, plan, images, drawing), "sampling"
    )


def _parts(prior: Prior, plan: Plan, images: range, drawing: Drawing) -> Iterator[EncodedPart]:
    """Codes of images in chunks, with their classes and numbers."""
    cycle = prior.labels_for(drawing.get("label"))
    for start in range(images.start, images.stop, CHUNK):
        chunk = range(start, min(start + CHUNK, images.stop))
        codes = prior.sample(len(chunk), first=start, **drawing)
        labels = np.array([cycle[j % len(cycle)] for j in chunk])
        yield EncodedPart(
            tuple(level.cpu().numpy() for level in codes), labels, np.array(chunk), []
        )


def record_of(prior: Prior, tokenizer: Tokenizer, n: int, drawing: Drawing) -> Samples:
    """What n images are to be made by; ConfigError for settings that cannot be."""
    prior.sample(0, **drawing)
    return Samples(
        prior=prior.fingerprint,
        origin=prior.origin,
        tokenizer=tokenizer.fingerprint,
        num_images=n,
        labels=tuple(prior.labels_for(drawing.get("label"))),
        **{name: value for name, value in drawing.items() if name != "label"},  # pyright: ignore[reportArgumentType]
    )


def _plan(record: Samples, prior: Prior, tokenizer: Tokenizer, samples_per_shard: int) -> Plan:
    """The plan of a code dataset of samples: its source says what they were made by."""
    made_by = record.model_dump(mode="json", exclude={"origin", "tokenizer", "num_images"})
    described = ", ".join(f"{name}={value}" for name, value in made_by.items())
    classes = prior.config.num_classes
    return Plan(
        tokenizer=TokenizerId(fingerprint=tokenizer.fingerprint, name=tokenizer.origin or ""),
        num_codes=prior.config.num_codes,
        grids=prior.config.grids,
        image=tokenizer.image,
        source=f"samples: {described}",
        source_identity=hashlib.sha256(canonical_json(made_by)).hexdigest(),
        num_inputs=record.num_images,
        labelled=classes > 0,
        class_names=prior.config.class_names or tuple(map(str, range(classes))),
        samples_per_block=min(1024, samples_per_shard),
        samples_per_shard=samples_per_shard,
        micro_batch=micro_batch_on(device_of(prior)),
    )


def _commit_record(out: Path, record: Samples) -> None:
    """Write what the images are made by into an empty folder, or go on with the same."""
    path = out / RECORD
    if path.is_file():
        old = read_json(path, Samples).model_dump(mode="json")
        new = record.model_dump(mode="json") | {"origin": old["origin"]}
        is_more = old["num_images"] < record.num_images
        same = old | {"num_images": record.num_images} if is_more else old
        continue_with(out, "set of samples", same, new)
        if is_more:
            write_json(path, new)
    else:
        begin_with(path, "set of samples", record.model_dump(mode="json"))


def read_drawn(out: Path, images: Sequence[int]) -> Tensor:
    """Images of a folder of samples as one sees them: (N, C, H, W) uint8, grey or RGB.

    Raises InputError for one that is not there, or damaged.
    """
    pictures = []
    for j in images:
        try:
            with Image.open(picture_file(out, j)) as picture:
                opened = picture.convert("L" if picture.mode == "L" else "RGB")
        except OSError as error:
            raise InputError(
                f"{picture_file(out, j)}: cannot be read ({error}); delete it and run the same "
                "imagetok sample again"
            ) from None
        pictures.append(torch.from_numpy(np.atleast_3d(np.array(opened))))
    return torch.stack(pictures).movedim(-1, 1)


def _save_grid(out: Path, record: Samples) -> None:
    """The first images in one picture; a column for each class where a few are drawn in turn."""
    count, classes = min(record.num_images, MOST_IN_GRID), len(record.labels)
    columns = classes if 1 < classes <= 20 else max(1, round(count**0.5))
    save_grid(read_drawn(out, range(count)), out / GRID, columns=columns, scale=2)
