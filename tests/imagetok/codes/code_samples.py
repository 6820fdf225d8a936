"""A tiny tokenizer, images and plans for the tests here and for the processes that they start."""

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch
from disk_faults import at_every_operation, in_fork
from torch import Tensor

from cli.main import _explain
from imagetok import seeding
from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.codes.interchange.export import Form, export_codes
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import CodePlan
from imagetok.config import validate
from imagetok.data.base import ArrayImages, ImageBatch, ImageDataset
from imagetok.data.image_decoding import ImageError
from imagetok.images import to_unit_range
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

NUM_CODES = 11
BLOCK, SHARD, MICRO_BATCH = 4, 8, 3


def random_pixels(count: int) -> Tensor:
    """The first images are the same for every count."""
    draws = [
        torch.randint(0, 256, (1, 1, 8, 8), generator=seeding.generator(7, "image", i))
        for i in range(count)
    ]
    return torch.cat(draws).to(torch.uint8)


def make_tokenizer(kind: str = "vqvae-ema", seed: int = 0) -> Tokenizer:
    """Grey 8x8 images to 4x4 codes; its codes are well mixed, though it is untrained."""
    config = validate(
        {
            "image": {"mode": "grey", "height": 8, "width": 8},
            "network": {"kind": "conv", "width": 16, "groups": 2, "blocks": 1, "init": "torch"},
            "quantizer": {"kind": kind, "num_codes": NUM_CODES, "code_dim": 4},
        },
        TokenizerConfig,
        "test",
    )
    with torch.random.fork_rng(devices=[]):
        seeding.reseed_global(seed, "test")
        tokenizer = build_tokenizer(config).requires_grad_(False).eval()
    h = tokenizer.encoder(to_unit_range(random_pixels(NUM_CODES)) - 0.5)
    if kind == "vqvae-ema":  # code i is what the encoder says at the centre of image i
        tokenizer.quantizer.codebook.copy_(h[:, :, 2, 2])
    else:  # no logit is always the largest
        last = [m for m in tokenizer.encoder.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.bias -= h.mean(dim=(0, 2, 3))
    return tokenizer


def make_images(count: int, labelled: bool = True) -> ArrayImages:
    """Random grey 8x8 images; image i has label i % 3."""
    return ArrayImages(
        random_pixels(count) if count else torch.zeros(0, 1, 8, 8, dtype=torch.uint8),
        torch.arange(count) % 3 if labelled else None,
        name="random",
        split="train",
        contract=make_tokenizer().image,
        class_names=("a", "b", "c") if labelled else (),
    )


def small_plan(tokenizer: Tokenizer, images: ImageDataset, **changes: object) -> CodePlan:
    """Blocks of 4, shards of 8, micro-batches of 3: every boundary within a few images."""
    plan = make_plan(tokenizer, images, source="random:train", name="tiny")
    sizes = {"samples_per_block": BLOCK, "samples_per_shard": SHARD, "micro_batch": MICRO_BATCH}
    return plan.model_copy(update={**sizes, **changes})


class Watched(ImageDataset):
    """Images that call `before` at each read."""

    def __init__(self, images: ImageDataset, before: Callable[[], None]):
        self.images, self.before = images, before
        self.name, self.split = images.name, images.split
        self.contract, self.class_names = images.contract, images.class_names

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        return self.images.identity()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        self.before()
        return self.images.read(indices)


class Unreadable(ImageDataset):
    """Images of which some cannot be read."""

    def __init__(self, images: ImageDataset, bad: Sequence[int]):
        self.images, self.bad = images, bad
        self.name, self.split = images.name, images.split
        self.contract, self.class_names = images.contract, images.class_names

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        return self.images.identity()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        for index in indices:
            if index in self.bad:
                raise ImageError("damaged", f"image {index}", "truncated")
        return self.images.read(indices)


def failing_at(point: int, fail: Callable[[], None]) -> Callable[..., None]:
    """A function that calls `fail` when it is called for the point-th time."""
    calls = iter(range(10**6))

    def tick(*_: object) -> None:
        if next(calls) == point:
            fail()

    return tick


def kill_everywhere(tokenizer: Tokenizer, count: int, out: Path, stride: int) -> None:
    """Kill an encoding at every n-th read and disk operation, rerun it; one folder per point."""
    images = make_images(count)
    plan = small_plan(tokenizer, images)

    def killed(point: int, folder: Path) -> None:
        tick = failing_at(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with at_every_operation(tick):
            encode_dataset(tokenizer, Watched(images, tick), folder, plan, threads=1)

    for point in range(0, 10**6, stride):
        folder = out / f"{point:03d}"
        end = in_fork(lambda p=point, f=folder: killed(p, f))
        if end == 0:
            return
        assert end == -signal.SIGKILL, f"point {point} ended with {end}"
        rerun = in_fork(lambda f=folder: encode_dataset(tokenizer, images, f, plan, threads=1))
        assert rerun == 0, f"the rerun after point {point} ended with {rerun}"


def fill_everywhere(tokenizer: Tokenizer, count: int, out: Path, stride: int) -> None:
    """Let the disk be full at every n-th operation; tells what the folder holds then, reruns."""
    images = make_images(count)
    plan = small_plan(tokenizer, images)
    for point in range(0, 10**6, stride):
        folder = out / f"{point:03d}"

        def fail(name: str = str(folder)) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

        try:
            with at_every_operation(failing_at(point, fail)):
                encode_dataset(tokenizer, images, folder, plan, threads=1)
            return
        except OSError as error:
            text, code = _explain(error)
            assert code == 5 and "free some space" in text, text
        there = {p.name: p.read_bytes().hex() for p in folder.iterdir()} if folder.exists() else {}
        sys.stdout.write(json.dumps(there) + "\n")
        encode_dataset(tokenizer, images, folder, plan, threads=1)


def encode_by_two(
    tokenizer: Tokenizer, count: int, folder: Path, doomed: Sequence[int] = (), after: int = 0
) -> None:
    """Encode by two processes; SIGKILL the doomed ones when so many records are there.

    The other one is then given ten seconds, as a launcher would: it may wait for the dead.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    images = make_images(count)
    plan = small_plan(tokenizer, images)
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 1
            try:
                encode_dataset(tokenizer, images, folder, plan, threads=1)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    if not doomed:
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert ends == [0, 0], ends
        return
    while num_records(folder) < after:
        time.sleep(0.001)
    for rank in doomed:
        os.kill(children[rank], signal.SIGKILL)
        os.waitpid(children[rank], 0)
    for rank in {0, 1}.difference(doomed):
        end = time.monotonic() + 10
        while os.waitpid(children[rank], os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(children[rank], signal.SIGKILL)
                os.waitpid(children[rank], 0)
                break
            time.sleep(0.01)


def kill_exports(tokenizer: Tokenizer, count: int, out: Path) -> None:
    """Kill an export at every disk operation, rerun it; leaves one folder per point and form."""
    images = make_images(count)
    encode_dataset(tokenizer, images, out / "codes", small_plan(tokenizer, images), threads=1)

    def killed(point: int, path: Path, form: Form) -> None:
        tick = failing_at(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with at_every_operation(tick):
            export_codes(open_codes(out / "codes"), path, form)

    for form in get_args(Form):
        for point in range(10**6):
            path = out / f"{form}-{point:03d}" / "exported"
            end = in_fork(lambda p=point, f=path, m=form: killed(p, f, m))
            if end == 0:
                break
            assert end == -signal.SIGKILL, f"{form}, point {point} ended with {end}"
            sys.stdout.write(f"{path.exists()}\n")
            sys.stdout.flush()
            rerun = in_fork(lambda f=path, m=form: export_codes(open_codes(out / "codes"), f, m))
            assert rerun == 0, f"the rerun of {form} after point {point} ended with {rerun}"


def num_records(folder: Path) -> int:
    """How many files of an encoding are whole."""
    return len(list(folder.glob("*.json"))) if folder.exists() else 0


def kill_one_of_two(tokenizer: Tokenizer, count: int, out: Path) -> None:
    """Kill one of two processes, or both, at ten stages, and rerun by two."""
    encode_by_two(tokenizer, count, out / "whole")
    stages = num_records(out / "whole")
    for trial in range(10):
        folder = out / f"{trial}"
        doomed = [(0,), (1,), (0, 1)][trial % 3]
        encode_by_two(tokenizer, count, folder, doomed, trial * stages // 10)
        sys.stdout.write(f"{num_records(folder)}\n")
        encode_by_two(tokenizer, count, folder)


def main() -> None:
    mode, source, out, count, *more = sys.argv[1:]
    tokenizer = Tokenizer.from_pretrained(source)
    match mode:
        case "kill":
            kill_everywhere(tokenizer, int(count), Path(out), *map(int, more))
        case "kill-export":
            kill_exports(tokenizer, int(count), Path(out))
        case "fill":
            fill_everywhere(tokenizer, int(count), Path(out), *map(int, more))
        case "kill-one-of-two":
            kill_one_of_two(tokenizer, int(count), Path(out))
        case _:
            images = make_images(int(count))
            encode_dataset(tokenizer, images, Path(out), small_plan(tokenizer, images))


if __name__ == "__main__":
    main()
