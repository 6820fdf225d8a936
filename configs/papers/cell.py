"""What the papers share: a cell of a table or figure, data sets, and ways to say settings.

Settings are those of `--set`; a key that is not set has its default.
"""

from typing import NamedTuple


class Dataset(NamedTuple):
    """Where images come from, and what is made of them."""

    name: str
    source: str
    image: str
    workers: int = 2


class Method(NamedTuple):
    """A row of a table."""

    name: str
    settings: tuple[str, ...]
    choices: str = ""
    """What the paper leaves open, and where it is not followed."""


class Cell(NamedTuple):
    """One config file."""

    path: str
    dataset: str
    method: str
    variant: str
    source: str
    expected: str
    """Empty: the paper draws it and gives no number."""
    choices: str
    settings: tuple[str, ...]
    tokenizer: str = ""
    """Of a prior: the path of the cell whose codes it models."""

    def changed(self, name: str, variant: str, source: str, *settings: str) -> "Cell":
        """The same but for some settings: a point of a sweep, beside the file of its method."""
        return self._replace(
            path=f"{self.path.replace('/', '/edvae-paper/')}-{name}",
            variant=variant,
            source=source,
            expected="",
            choices="The paper gives the ends of the sweep; what lies between is chosen.",
            settings=(*self.settings, *settings),
        )

    def with_prior(self, prior: Method, expected: str) -> "Cell":
        """A prior on its codes, which are those of the training images, in a file beside it."""
        folder, _, name = self.path.rpartition("/")
        return self._replace(
            path=f"{folder}/{prior.name.lower()}-{name}",
            method=f"{prior.name} prior of {self.method}",
            expected=expected,
            choices=prior.choices,
            settings=prior.settings,
            tokenizer=self.path,
        )


DATASETS = {
    "cifar10": Dataset("CIFAR-10", "cifar10", "height: 32, width: 32"),
    "celeba": Dataset("CelebA 64 x 64", "celeba", "height: 64, width: 64, centre_crop: 140", 8),
    "lsun-church": Dataset(
        "LSUN Church 128 x 128", "lsun", "height: 128, width: 128, resize: stretch", 8
    ),
    "mnist": Dataset("MNIST", "mnist", "mode: grey, height: 28, width: 28"),
    "fashion-mnist": Dataset("Fashion-MNIST", "fashion-mnist", "mode: grey, height: 28, width: 28"),
    "kaokore": Dataset("Kaokore 256 x 256", "kaokore", "height: 256, width: 256", 8),
}


def constants(**weights: float) -> str:
    """Loss weights that do not change."""
    named = ", ".join(f"{name}: {{kind: constant, value: {w}}}" for name, w in weights.items())
    return f"objective.weights={{{named}}}"


def run_of(seed: int, steps: int, batch_size: int, learning_rate: str) -> tuple[str, ...]:
    """The length of a run, with 30 evaluations and 60 checkpoints."""
    return (
        f"seed={seed}",
        f"train={{steps: {steps}, batch_size: {batch_size}, learning_rate: {learning_rate}, "
        f"log_every: 100, evaluate_every: {steps // 30}, checkpoint_every: {steps // 60}}}",
    )


def prior_run_of(steps: int, batch_size: int, model: str) -> tuple[str, ...]:
    """A prior without classes, as in the papers, at a constant rate; the best weights are kept."""
    return (
        *run_of(0, steps, batch_size, "{kind: constant, value: 3e-4}"),
        "conditional=false",
        "export=best",
        "patience=5",
        f"model={model}",
    )


ANNEALED = "objective.temperature={kind: exponential, start: 1.0, rate: 1e-5}"
