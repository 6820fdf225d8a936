"""What `against_commit.py` runs: short trainings of every kind, and what is made of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

STEPS, STOP, DRAWN = 12, 7, 12
CPU = ["--device", "cpu"]
Command = tuple[list[str], int | None]
"""The words, and the number of optimizer steps after which it is stopped, or None."""

SHORT = ["log_every=1", "evaluate_every=5", "checkpoint_every=4", "trackers=[]", "batch_size=16"]
TRAIN = [f"train.{setting}" for setting in (f"steps={STEPS}", *SHORT)]
SHAPES = ",count=64,test_count=32,seed=0"
CONV = ["tokenizer.network.width=8"]
FEW = [*CONV, "data.count=64", "data.test_count=32"]
TOKENIZERS = {
    "digits/edvae": CONV,
    "digits/vqvae-ema": CONV,
    "digits/dvae": CONV,
    "digits/vqvae": CONV,
    "digits/sqvae": CONV,
    "digits/gs-vqvae": CONV,
    "digits/vqste": CONV,
    "digits/vae": CONV,
    "shapes/vqvae2": [*FEW, "tokenizer.network.residual_width=4"],
    "shapes/vmf-sqvae": FEW,
}
"""Config -> settings that make it small."""
PRIORS = {
    "digits/gpt": ["layers=1", "width=16", "heads=2"],
    "digits/pixelsnail": ["width=16", "blocks=1", "units=1", "heads=2"],
    "digits/pixelcnn": ["width=8", "layers=2", "head=16"],
    "shapes/pixelsnail-vqvae2": [
        f"{part}={value}"
        for level in ("top", "bottom")
        for part, value in ((f"{level}.width", 16), (f"{level}.blocks", 1), (f"{level}.heads", 2))
    ],
}
SMALL_PRIOR = "small-gpt.yaml"
"""A config that `write_small_prior` leaves: `compare --set` changes tokenizers only."""
QUICK = ("digits/edvae", "digits/vqvae-ema", "digits/gpt")


def settings(values: list[str]) -> list[str]:
    """--set for each."""
    return [word for value in values for word in ("--set", value)]


def name_of(config: str) -> str:
    """Of the run of a config."""
    return config.partition("/")[2]


def write_small_prior(folder: Path) -> None:
    """The GPT on digits, small and short."""
    tree = yaml.safe_load((folder / "configs" / "digits" / "gpt.yaml").read_bytes())
    tree["model"] |= {"layers": 1, "width": 16, "heads": 2}
    tree["train"] |= {"steps": STEPS, "log_every": 1, "evaluate_every": 5, "trackers": []}
    tree["train"]["learning_rate"] |= {"steps": STEPS, "warmup": 2}
    (folder / SMALL_PRIOR).write_text(yaml.safe_dump(tree))


class ShortRuns(NamedTuple):
    """The commands that fill a folder; every one can be run again and then goes on."""

    chosen: tuple[str, ...]
    """Of TOKENIZERS and PRIORS."""
    compares: bool

    def train(self, config: str, stop_after: int | None = None) -> Command:
        if config in TOKENIZERS:
            own = TOKENIZERS[config]
        else:
            below = "vqvae2" if config.endswith("vqvae2") else "edvae"
            own = [f"tokenizer=runs/{below}/tokenizer", f"data.source=codes/{below}-train"]
            own += [f"data.test=codes/{below}-test"]
            own += [f"model.{value}" for value in PRIORS[config]]
        words = ["train", f"configs/{config}.yaml", "--out", f"runs/{name_of(config)}", "--resume"]
        return [*words, *CPU, *settings([*TRAIN, *own])], stop_after

    def encode(self) -> Iterator[Command]:
        for name, source, more in (("edvae", "digits", ""), ("vqvae2", "shapes", SHAPES)):
            if any(name_of(config) == name for config in self.chosen):
                for split in ("train", "test"):
                    words = ["encode", "--tokenizer", f"runs/{name}/tokenizer", *CPU]
                    words += ["--data", f"{source}:{split}{more}"]
                    yield [*words, "--shards", f"codes/{name}-{split}"], None

    def sample(self, count: int) -> Iterator[Command]:
        for name in map(name_of, self.priors):
            words = ["sample", "--prior", f"runs/{name}/prior", *CPU, "--seed", "3"]
            drawn = ["-n", str(count), "--top-k", "20", "--temperature", "0.9"]
            yield [*words, *drawn, "--out", f"samples/{name}"], None
            drawn = ["-n", str(DRAWN), "--guidance", "1.5", "--label", "1"]
            yield [*words, *drawn, "--shards", f"codes/{name}-samples"], None

    def measure(self) -> Iterator[Command]:
        for config in self.tokenizers:
            data = f"shapes:test{SHAPES}" if config.startswith("shapes") else "digits:test"
            words = ["evaluate", "--tokenizer", f"runs/{name_of(config)}/tokenizer", *CPU]
            yield [*words, "--data", data, "--out", f"measures-{name_of(config)}.json"], None

    def compare(self) -> Command:
        words = ["compare", *(f"configs/digits/{name}.yaml" for name in ("edvae", "vqvae-ema"))]
        words += ["--prior", SMALL_PRIOR, "--out", "compared", "--seeds", "4"]
        return [*words, "--jobs", "1", *CPU, *settings(TRAIN)], None

    def verify(self) -> Iterator[Command]:
        for config in self.chosen:
            yield ["verify", f"runs/{name_of(config)}"], None

    @property
    def tokenizers(self) -> list[str]:
        return [config for config in self.chosen if config in TOKENIZERS]

    @property
    def priors(self) -> list[str]:
        return [config for config in self.chosen if config in PRIORS]

    def all(self) -> list[Command]:
        """Those that fill a folder, and those that go on with one that is half full."""
        tokenizers, priors = (map(self.train, c) for c in (self.tokenizers, self.priors))
        made = [*tokenizers, *self.encode(), *priors, *self.sample(DRAWN), *self.measure()]
        export = (["export", "codes/edvae-test", "--to", "npy", "--out", "exported"], None)
        return [*made, export, *([self.compare()] if self.compares else []), *self.verify()]
