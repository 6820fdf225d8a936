"""Distributed runs whose processes do not fit together, each forked and told apart by its rank.

Run as a program: it prints, as JSON, how every process of every attack ended and what it said.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from sampling_parts import make_prior_folder

from cli.main import _run, _set_up_logging
from imagetok import seeding
from imagetok.distributed import peers, rendezvous
from imagetok.errors import ConfigError
from imagetok.named_configs import find_config
from imagetok.processes import process_state
from imagetok.training import checkpoint
from prior.generation import generate

COUNT = 12
Arguments = Sequence[object]
TRAINING = [
    "tokenizer.network.width=8", "tokenizer.network.halvings=1", "tokenizer.quantizer.num_codes=8",
    "train.steps=2", "train.batch_size=4", "train.evaluate_every=2", "train.checkpoint_every=1",
    "train.trackers=[]", "train.workers=0", "train.learning_rate={kind: constant, value: 0.001}",
]  # fmt: skip
PRIOR = [
    "model.layers=1", "model.width=8", "model.heads=2", "train.steps=2", "train.batch_size=4",
    "train.evaluate_every=2", "train.checkpoint_every=2", "train.trackers=[]", "train.workers=0",
    "data.test=null", "data.held_out=0.25", "conditional=false", "label_dropout=0",
    "train.learning_rate={kind: constant, value: 0.001}",
]  # fmt: skip


def make_images(folder: Path, count: int, seed: int = 0, ending: str = "png") -> Path:
    """Grey 6 x 6 images of one seed, three classes."""
    pixels = torch.randint(0, 256, (count, 6, 6), generator=seeding.generator(seed, "images"))
    for i, image in enumerate(pixels.to(torch.uint8).numpy()):
        path = folder / "abc"[i % 3] / f"{i:03d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def run_ranks(
    work: Callable[[int], int], folder: Path, *, size: int = 2, absent: Sequence[int] = ()
) -> dict[str, Any]:
    """Fork a process a rank; by rank its exit code and what it said, and how long all took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    begun, children = time.monotonic(), {}
    for rank in sorted(set(range(size)) - set(absent)):
        said = folder / f"rank{rank}.txt"
        child = os.fork()
        if child == 0:
            _become(rank, size, port, said)
            code = 99
            try:
                code = work(rank)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children[rank] = child
    codes = {
        rank: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for rank, child in children.items()
    }
    texts = {rank: (folder / f"rank{rank}.txt").read_text() for rank in children}
    return {
        "codes": codes,
        "said": texts,
        "seconds": time.monotonic() - begun,
    }


def _become(rank: int, size: int, port: int, said: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    descriptor = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _set_up_logging()


class Attacks:
    """Every attack; `folder` holds what they need."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.prior = make_prior_folder(folder / "one", num_classes=0)
        self.tokenizer = folder / "one" / "own"
        self.other_prior = make_prior_folder(folder / "two", num_classes=0, seed=1)
        self.other_tokenizer = folder / "two" / "own"
        self.images = make_images(folder / "images", COUNT)
        self.config = folder / "tokenizer.yaml"
        tree = find_config("digits/vqvae-ema").tree
        tree["data"] = {"source": "folder", "root": str(self.images), "holdout": 0.25}
        tree["tokenizer"]["image"] |= {"height": 6, "width": 6}
        self.config.write_text(yaml.safe_dump(tree))

    def by_commands(self, name: str, of_rank: Callable[[int], Arguments]) -> dict[str, Any]:
        """Each rank runs a command of its own."""
        return run_ranks(lambda rank: _run([*map(str, of_rank(rank))]), self.folder / name)

    def encoding(self, out: Path, /, **changes: object) -> Arguments:
        given = {"tokenizer": self.tokenizer, "data": self.images, "shards": out}
        given |= {"samples-per-shard": 4} | changes
        return ["encode", *(word for k, v in given.items() for word in (f"--{k}", v))]

    def encode(self, name: str, **other: object) -> dict[str, Any]:
        """Rank 1 encodes something else; also what the folder holds afterwards."""
        out = self.folder / name / "codes"
        changes = {key.replace("_", "-"): value for key, value in other.items()}
        found = self.by_commands(name, lambda rank: self.encoding(out, **(changes if rank else {})))
        return found | {"left": sorted(p.name for p in out.rglob("*")) if out.exists() else []}

    def encode_other_images(self) -> dict[str, Any]:
        return self.encode("encode_other_images", data=make_images(self.folder / "i1", COUNT, 1))

    def encode_fewer_images(self) -> dict[str, Any]:
        return self.encode("encode_fewer_images", data=make_images(self.folder / "i2", COUNT - 3))

    def encode_other_pixels_of_one_size(self) -> dict[str, Any]:
        """Same names and sizes: uncompressed files."""
        self.images, before = make_images(self.folder / "i3", COUNT, 1, "bmp"), self.images
        found = self.encode("same_sizes", data=make_images(self.folder / "i4", COUNT, 2, "bmp"))
        self.images = before
        return found

    def encode_other_shards(self) -> dict[str, Any]:
        return self.encode("encode_other_shards", samples_per_shard=3)

    def encode_other_allowance(self) -> dict[str, Any]:
        return self.encode("encode_other_allowance", max_skip=2)

    def encode_other_tokenizer(self) -> dict[str, Any]:
        return self.encode("encode_other_tokenizer", tokenizer=self.other_tokenizer)

    def encode_other_folder(self) -> dict[str, Any]:
        return self.encode("encode_other_folder", shards=self.folder / "elsewhere")

    def encode_moved_images(self) -> dict[str, Any]:
        """The same images in another place are no difference."""
        moved = self.folder / "moved"
        shutil.copytree(self.images, moved)
        return self.encode("encode_moved_images", data=moved)

    def encode_other_version(self) -> dict[str, Any]:
        out = self.folder / "version" / "codes"

        def work(rank: int) -> int:
            peers.__version__ = f"1.{rank}"
            return _run([*map(str, self.encoding(out))])

        return run_ranks(work, self.folder / "version")

    def sampling(self, out: Path, /, **changes: object) -> Arguments:
        given = {"prior": self.prior, "n": 5, "seed": 1, "out": out} | changes
        words = ("-n" if k == "n" else f"--{k.replace('_', '-')}" for k in given)
        return ["sample", *(w for pair in zip(words, given.values(), strict=True) for w in pair)]

    def sample(self, name: str, **other: object) -> dict[str, Any]:
        out = self.folder / name / "out"
        return self.by_commands(name, lambda rank: self.sampling(out, **(other if rank else {})))

    def sample_other_seed(self) -> dict[str, Any]:
        return self.sample("sample_other_seed", seed=2)

    def sample_other_prior(self) -> dict[str, Any]:
        return self.sample("sample_other_prior", prior=self.other_prior)

    def sample_other_batches(self) -> dict[str, Any]:
        """Of the Python function: images in a folder are shared in chunks of this size."""
        out = self.folder / "sample_other_batches" / "out"

        def work(rank: int) -> int:
            try:
                generate(self.prior, 5, out=out, batch_size=2 + rank)
            except ConfigError as error:
                sys.stderr.write(str(error))
                return error.exit_code
            return 0

        return run_ranks(work, self.folder / "sample_other_batches")

    def sample_other_folder(self) -> dict[str, Any]:
        return self.sample("sample_other_folder", out=self.folder / "elsewhere2")

    def sample_as_codes(self) -> dict[str, Any]:
        where = [self.folder / "sample_as_codes" / "codes"]
        return self.by_commands(
            "sample_as_codes",
            lambda rank: ["sample", "--prior", self.prior, "-n", 5 + rank, "--shards", *where],
        )

    def evaluate_other_images(self) -> dict[str, Any]:
        places = self.images, make_images(self.folder / "i5", COUNT, 3)
        return self.by_commands(
            "evaluate_other_images",
            lambda rank: ["evaluate", "--tokenizer", self.tokenizer, "--data", places[rank]],
        )

    def evaluate_other_tokenizer(self) -> dict[str, Any]:
        tokenizers = self.tokenizer, self.other_tokenizer
        return self.by_commands(
            "evaluate_other_tokenizer",
            lambda rank: ["evaluate", "--tokenizer", tokenizers[rank], "--data", self.images],
        )

    def evaluate_other_samples(self) -> dict[str, Any]:
        places = self.images, make_images(self.folder / "i6", COUNT, 3)
        words = ["evaluate", "--tokenizer", self.tokenizer, "--data", self.images]
        words += ["--features", "python:rank_attacks:Pixels"]
        return self.by_commands(
            "evaluate_other_samples", lambda rank: [*words, "--samples", places[rank]]
        )

    def training(self, out: Path, *sets: str, root: Path | None = None) -> Arguments:
        given = [*TRAINING, f"data.root={root or self.images}", *sets]
        return ["train", self.config, "--out", out, *(w for s in given for w in ("--set", s))]

    def train(self, name: str, *sets: str, **options: Any) -> dict[str, Any]:
        out = self.folder / name / "run"
        more = (sets, options)
        found = self.by_commands(
            name,
            lambda rank: self.training(
                out, *(more[0] if rank else ()), **(more[1] if rank else {})
            ),
        )
        return found | {"left": sorted(p.name for p in out.iterdir()) if out.exists() else []}

    def train_other_images(self) -> dict[str, Any]:
        other = make_images(self.folder / "i7", COUNT, 4)
        return self.train("train_other_images", root=other)

    def train_other_config(self) -> dict[str, Any]:
        return self.train("train_other_config", "seed=7", "train.clip_norm=2")

    def train_moved_images(self) -> dict[str, Any]:
        other = self.folder / "moved2"
        shutil.copytree(self.images, other)
        return self.train("train_moved_images", root=other)

    def train_resumed_without_checkpoints(self) -> dict[str, Any]:
        """Rank 1 does not see the run's checkpoints."""
        run = self.folder / "train_moved_images" / "run"
        sets = ["train.steps=4"]

        def work(rank: int) -> int:
            if rank:
                checkpoint.newest = lambda folder: None
            return _run([*map(str, self.training(run, *sets)), "--resume"])

        return run_ranks(work, self.folder / "resumed")

    def train_prior_on_other_codes(self) -> dict[str, Any]:
        places = [self.folder / "codes-a", self.folder / "codes-b"]
        others = make_images(self.folder / "i8", COUNT, 1)
        for place, images in zip(places, (self.images, others), strict=True):
            given = [*map(str, self.encoding(place, data=images))]
            made = run_ranks(lambda rank, given=given: _run(given), place.parent / "one", size=1)
            assert made["codes"] == {0: 0}, made
        out = self.folder / "prior" / "run"

        def words(rank: int) -> Arguments:
            given = [*PRIOR, f"tokenizer={self.tokenizer}", f"data.source={places[rank]}"]
            return ["train", "digits/gpt", "--out", out, *(w for s in given for w in ("--set", s))]

        return self.by_commands("prior", words)

    def one_that_never_comes(self, absent: int) -> dict[str, Any]:
        rendezvous.CONNECT_TIMEOUT, rendezvous.REPORT_EVERY = 1.0, 0.3
        out = self.folder / f"never{absent}"
        found = run_ranks(
            lambda rank: _run([*map(str, self.encoding(out / "codes"))]), out, absent=[absent]
        )
        rendezvous.CONNECT_TIMEOUT, rendezvous.REPORT_EVERY = 600.0, 15.0
        return found

    def second_that_never_comes(self) -> dict[str, Any]:
        return self.one_that_never_comes(1)

    def first_that_never_comes(self) -> dict[str, Any]:
        return self.one_that_never_comes(0)

    def killed(self, doomed: int, size: int = 3) -> dict[str, Any]:
        """One is killed while each encodes a share that takes far longer than to notice it."""
        from imagetok.codes import encode

        genuine = encode._encode_micro
        images = make_images(self.folder / "many", 60)
        out = self.folder / f"killed{doomed}" / "codes"

        def work(rank: int) -> int:
            def slow(*arguments: Any) -> Any:
                time.sleep(0.3)
                if rank == doomed:
                    os.kill(os.getpid(), signal.SIGKILL)
                return genuine(*arguments)

            encode._encode_micro = slow
            more: dict[str, object] = {"data": images, "samples-per-shard": 1}
            return _run([*map(str, self.encoding(out, **more))])

        found = run_ranks(work, self.folder / f"killed{doomed}", size=size)
        return found | {"shards": len(list(out.glob("*.tar")))}

    def first_is_killed(self) -> dict[str, Any]:
        return self.killed(0)

    def last_is_killed(self) -> dict[str, Any]:
        return self.killed(2)

    def hangs_after_a_peer_ended(self) -> dict[str, Any]:
        """Rank 0 waits in a call that never returns when rank 1 is killed."""

        def work(rank: int) -> int:
            peers.EXIT_GRACE = 1.0
            process_state()
            with peers.shared_work({}):
                if rank:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(500)
            return 0

        return run_ranks(work, self.folder / "hangs")


class Pixels(torch.nn.Module):
    """Images as features of themselves, for distances between sets."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float()


def main() -> None:
    folder, *names = sys.argv[1:]
    attacks = Attacks(Path(folder))
    found = {name: getattr(attacks, name)() for name in names}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
