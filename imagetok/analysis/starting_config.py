"""`imagetok.init`: from a folder of pictures to configs that suit it, and the commands to run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imagetok.caches import size_text
from imagetok.codes.dataset_commit import expected_bytes
from imagetok.codes.schema import CodePlan, TokenizerId
from imagetok.config import compact_yaml, validate
from imagetok.data import FolderConfig, parse_spec
from imagetok.data.folder_survey import FolderSurvey, first_names, survey_folder
from imagetok.data.unreadable import allowance_for, listed
from imagetok.durable import write_bytes
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract, pixels_text
from imagetok.named_configs import find_config
from imagetok.progress import progress_shown
from imagetok.results import Result, duration_text
from imagetok.suggestions import counted, did_you_mean
from imagetok.training.config import NO_SKIPS, TokenizerRun
from imagetok.training.estimate import RunEstimate
from imagetok.training.facts import RunFacts
from imagetok.training.next_commands import command, encode_command, sample_command
from imagetok.training.tokenizer import estimate_tokenizer

METHODS = {
    "vqvae-ema": "VQ-VAE with an EMA codebook, k-means start and reset of unused codes",
    "edvae": "EdVAE",
    "dvae": "dVAE",
}
"""Methods by the names of their configs cifar10/NAME-cpu, with what they are."""
SIZES = {16: 2, 32: 3, 64: 4, 128: 4, 256: 5}
"""Shorter side of images -> groups of the network, which halve it between them."""
DEFAULT_SIZE = 64
"""Largest size that is chosen without being asked for: larger ones take hours on a CPU."""
LARGE_ENOUGH = 0.9
"""Share of the pictures that are at least of the chosen size, so that they are not enlarged."""
ONE_SHAPE, TOLERANCE, LONGEST = 0.9, 0.15, 2.0
"""Images take the median aspect ratio, up to 2, if this share of the pictures is so close to it."""
PASSES, FEWEST, MOST = 20, 500, 20_000
"""Passes over the pictures, and the limits of the number of steps."""


@dataclass(frozen=True, repr=False)
class StartingConfig(Result):
    """Configs of a tokenizer and a prior that suit a folder of pictures."""

    survey: FolderSurvey
    """What the folder holds."""
    config: Path
    """The written config of the tokenizer."""
    prior_config: Path
    """The written config of a prior on its codes."""
    image: ImageContract
    """Size and mode of the tokenizer's images."""
    estimate: RunEstimate
    """Facts, time and memory of training the tokenizer, from a few steps on this machine."""
    code_bytes: int
    """Bytes of the codes of all pictures on disk, about."""
    commands: tuple[str, ...]
    """The commands from here to samples, quoted for a shell, in order."""

    def title(self) -> str:
        """Return the folder and the number of its pictures."""
        return self.survey.title()

    def rows(self) -> Mapping[str, object]:
        """Return what the folder holds, the choices, and the estimates."""
        estimate, side = self.estimate, min(self.image.height, self.image.width)
        small = self.survey.smaller_than(side)
        enlarged = f"{len(small):,} of less than {side} pixels: {first_names(small)}"
        facts = estimate.facts.rows()
        chosen = ("pixels", "codes an image", "bits an image", "parameters", "steps")
        return {
            **self.survey.rows(),
            **({"enlarged": enlarged} if small else {}),
            **{name: facts[name] for name in chosen},
            **self.durations(),
            "codes, about": f"{size_text(self.code_bytes)} on disk",
        }

    def durations(self) -> Mapping[str, object]:
        """Return the time of training as text, by what is trained."""
        return {"tokenizer, about": training_text(self.estimate)}


def training_text(estimate: RunEstimate) -> str:
    """Return time and memory of a training as measured here."""
    assert estimate.seconds is not None and estimate.peak_memory_mb is not None
    return (
        f"{duration_text(estimate.seconds)} of training on this machine, {estimate.device}, with "
        f"{estimate.peak_memory_mb:,.0f} MiB"
    )


def init(
    folder: Path | str,
    *,
    out: Path | str | None = None,
    method: str = "vqvae-ema",
    size: int | None = None,
    holdout: float = 0.1,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> StartingConfig:
    """Look through a folder of pictures, and write configs that suit it.

    >>> start = imagetok.init("photos")
    >>> print(start)
    >>> run = imagetok.train(start.config, out="runs/photos")

    folder: pictures, with or without a subfolder per class, with or without folders of splits.
    out: the config of the tokenizer to write (default: the folder's name, with .yaml); that of a
    prior is written beside it, as NAME-gpt.yaml. Neither may exist.
    method: a name in `METHODS`. size: the shorter side of the images, one of `SIZES`; by default
    the largest that nearly all pictures have, up to 64.
    holdout: share of the pictures to hold out where the folder has no split to hold out.
    device: "cpu" to use no GPU for the measured steps. progress: show progress on stderr.

    `prior.init` estimates the time of the prior, too.
    Raises ConfigError for a file that exists or an unknown method or size, InputError for a folder
    that is missing or in which nothing can be read.
    """
    base = find_config(f"cifar10/{_known(method)}-cpu").tree
    if size is not None and size not in SIZES:
        raise ConfigError(
            f"size: expected one of {', '.join(map(str, SIZES))}, found {size}; edit the image and "
            "the network of the config for others"
        )
    path = Path(out) if out is not None else Path(f"{_name_of(Path(folder))}.yaml")
    prior_path = path.with_name(f"{path.stem}-gpt{path.suffix}")
    run, prior_run = Path("runs", path.stem), Path("runs", prior_path.stem)
    _check_free([path, prior_path], [run, prior_run])
    _check_folder(Path(folder), method)
    data = validate({"source": "folder", "root": str(Path(folder)), "holdout": holdout},
                    FolderConfig, "init")  # fmt: skip
    with progress_shown(progress):
        survey = survey_folder(data)
        image, groups = choose_image(survey, size)
        tree = tokenizer_tree(base, data, image, groups, survey.train)
        config = validate(tree | {"max_skip": "100%"}, TokenizerRun, str(path))
        estimate = estimate_tokenizer(config, device=None if device is None else str(device))
    if estimate.refusal is not None:
        raise estimate.refusal
    survey = survey.with_damaged(estimate.unreadable)
    max_skip = allowance(survey)
    tree = tokenizer_tree(base, data, image, groups, survey.train, max_skip)
    codes = run / "codes"
    prior_tree = _prior_tree(run, survey.train)
    _write(path, with_comments(compact_yaml(tree), _comments(survey, image, method, size)))
    _write(prior_path, with_comments(compact_yaml(prior_tree), _PRIOR_COMMENTS))
    return StartingConfig(
        survey,
        path,
        prior_path,
        image,
        estimate,
        _code_bytes(estimate.facts, image, survey),
        (
            command("train", path, "--out", run),
            encode_command(run / "tokenizer", data, "train", codes / "train", max_skip),
            encode_command(run / "tokenizer", data, "test", codes / "test", max_skip),
            command("train", prior_path, "--out", prior_run),
            sample_command(prior_run / "prior", 16, prior_run / "samples"),
        ),
    )


def choose_image(survey: FolderSurvey, size: int | None = None) -> tuple[ImageContract, int]:
    """Return the images of a tokenizer for these pictures, and the groups of its network.

    size: the shorter side, one of `SIZES`; by default chosen from the pictures. The longer side
    follows the pictures' aspect ratio if nearly all have the same.
    """
    sides = survey.short_sides
    if not sides:
        raise InputError(
            f"{survey.data.root}: expected pictures, found {counted(len(survey.damaged), 'file')}, "
            f"of which none can be read{listed(survey.damaged)}"
        )
    fitting = [s for s in SIZES if sides[floor_share(len(sides))] >= s and s <= DEFAULT_SIZE]
    short = size or max(fitting, default=min(SIZES))
    groups = SIZES[short]
    aspect = _common_aspect(survey.aspects)
    factor = 2 ** (groups - 1)
    long = factor * round(short * max(aspect, 1 / aspect) / factor)
    height, width = (short, long) if aspect >= 1 else (long, short)
    mode = "grey" if survey.is_grey else "rgb"
    return ImageContract(mode=mode, height=height, width=width), groups


def floor_share(count: int) -> int:
    """Return the index, in sorted values, above which `LARGE_ENOUGH` of them lie."""
    return int((1 - LARGE_ENOUGH) * count)


def _common_aspect(aspects: list[float]) -> float:
    """Return the median aspect ratio, within limits, if nearly all are close to it; else 1."""
    middle = aspects[len(aspects) // 2]
    near = sum(1 / (1 + TOLERANCE) <= aspect / middle <= 1 + TOLERANCE for aspect in aspects)
    return min(LONGEST, max(1 / LONGEST, middle)) if near >= ONE_SHAPE * len(aspects) else 1.0


def allowance(survey: FolderSurvey) -> str:
    """Return how many unreadable pictures a run may skip: the damaged ones, and one in a hundred.

    "0" if all pictures were decoded and none is damaged, so that damage that comes later ends a
    run.
    """
    if not survey.damaged and survey.is_whole:
        return NO_SKIPS
    return str(allowance_for(len(survey.damaged), len(survey.files)))


def tokenizer_tree(
    base: dict[str, Any],
    data: FolderConfig,
    image: ImageContract,
    groups: int,
    count: int,
    max_skip: str = NO_SKIPS,
) -> dict[str, Any]:
    """Return the config of a tokenizer as plain data: `base` with these images and their steps.

    groups: groups of the network. count: number of training pictures. max_skip: unreadable pictures
    of each split to allow.
    """
    network, train = base["tokenizer"]["network"], base["train"]
    gain = (groups * network["blocks"]) ** -0.5
    steps = steps_for(count, train["batch_size"])
    every = {"log_every": 25, "evaluate_every": steps // 5, "checkpoint_every": steps // 10}
    tokenizer = base["tokenizer"] | {
        "image": image.model_dump(mode="json"),
        "network": network | {"groups": groups, "residual_gain": gain},
    }
    return {
        "kind": base["kind"],
        "seed": base["seed"],
        "data": data.model_dump(mode="json"),
        **({} if max_skip == NO_SKIPS else {"max_skip": int(max_skip)}),
        "tokenizer": tokenizer,
        "objective": base["objective"],
        "train": train | {"steps": steps, **every},
    }


def steps_for(count: int, batch_size: int) -> int:
    """Return steps for `PASSES` passes over `count` pictures, rounded to hundreds, within limits.

    >>> steps_for(270, 32), steps_for(5000, 32), steps_for(10**6, 32)
    (500, 3100, 20000)
    """
    return min(MOST, max(FEWEST, 100 * round(PASSES * count / batch_size / 100)))


def _prior_tree(run: Path, count: int) -> dict[str, Any]:
    """Return the config of a GPT prior on the codes of a run of a tokenizer."""
    base = find_config("cifar10/gpt-cpu").tree
    steps = steps_for(count, base["train"]["batch_size"])
    codes = {split: str(run / "codes" / split) for split in ("train", "test")}
    every = {"log_every": 25, "evaluate_every": steps // 10, "checkpoint_every": steps // 10}
    return base | {
        "data": base["data"] | {"source": codes["train"], "test": codes["test"]},
        "tokenizer": str(run / "tokenizer"),
        "export": "best",
        "train": base["train"] | {"steps": steps, **every},
    }


def with_comments(text: str, comments: Mapping[str, str]) -> str:
    """Insert comments into YAML above the lines that begin with a key, at the same indent.

    comments: start of a line, such as "  image:" -> text; the key "" is the head of the file.
    """
    lines = [f"# {line}".rstrip() for line in comments.get("", "").splitlines()]
    for line in text.splitlines():
        for start, comment in comments.items():
            if start and line.startswith(start):
                indent = start[: len(start) - len(start.lstrip())]
                lines += [f"{indent}# {part}" for part in comment.splitlines()]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _comments(
    survey: FolderSurvey, image: ImageContract, method: str, size: int | None
) -> dict[str, str]:
    side = min(image.height, image.width)
    enough = len(survey.short_sides) - len(survey.smaller_than(side))
    share = 100 * enough / len(survey.short_sides)
    asked = "asked for" if size is not None else f"chosen up to {DEFAULT_SIZE} (--size for others)"
    pictures = counted(len(survey.files), "picture")
    return {
        "": f"{METHODS[method]}, for {pictures} in {survey.data.root},\n"
        "written by `imagetok init`. Keys are explained on\n"
        "https://imagetok.github.io/imagetok/reference/config-keys.html",
        "data:": f"pictures: {survey.splits_text()}",
        "max_skip:": "damaged pictures to allow: others take their place, and they are listed",
        "  image:": f"{pixels_text(image)}: {asked}; {share:.0f} % of the pictures are as large. "
        "Others are enlarged.\nA picture of another shape is cropped at its longer side.",
        "  network:": "groups: each more halves the grid of codes; width: channels, for quality "
        "and time",
        "  quantizer:": "num_codes: entries of the codebook",
        "  steps:": f"about {PASSES} passes over the pictures, at least {FEWEST:,} steps; more "
        "steps give better images",
        "  workers:": "processes that read pictures; more help if pictures are large",
    }


_PRIOR_COMMENTS = {
    "": "A GPT prior on the codes of the tokenizer, written by `imagetok init`.",
    "conditional:": "the classes of the pictures, if they have any",
    "export:": "the weights that fit the held-out codes best; few pictures are soon learned by "
    "heart",
}


def _code_bytes(facts: RunFacts, image: ImageContract, survey: FolderSurvey) -> int:
    """Return about how many bytes the codes of all pictures take on disk."""
    totals = 0
    for count in (survey.train, survey.held_out):
        plan = CodePlan(
            tokenizer=TokenizerId(fingerprint="", name=""),
            num_codes=facts.num_codes or (),
            grids=facts.grids or (),
            image=image,
            source="",
            source_identity="",
            num_inputs=count,
            labelled=bool(survey.classes),
            class_names=tuple(survey.classes),
        )
        totals += expected_bytes(plan)
    return totals


def _known(method: str) -> str:
    if method not in METHODS:
        raise ConfigError(
            f"method: expected one of {', '.join(METHODS)}, found {method!r}"
            f"{did_you_mean(method, METHODS)}; `imagetok configs` lists configs of others"
        )
    return method


def _check_folder(folder: Path, method: str) -> None:
    """Raise InputError for a file, with the command that trains on it if it is a table or a tar."""
    if not folder.is_file():
        return
    advice = "check the path"
    if folder.suffix in (".csv", ".jsonl", ".tar"):
        data = parse_spec(str(folder))[0]
        tree = {"source": data.source, **data.model_dump(exclude_defaults=True)}
        words = ("--set", f"data={compact_yaml(tree).strip()}")
        advice = f"to train on what it holds: {command('train', f'cifar10/{method}-cpu', *words)}"
    raise InputError(f"{folder}: expected a folder of pictures, found a file; {advice}")


def _name_of(folder: Path) -> str:
    """Return the name of a folder as a file name that needs no quotes in a shell."""
    return re.sub(r"[^\w.-]+", "-", folder.expanduser().resolve().name).strip("-.") or "pictures"


def _check_free(files: list[Path], runs: list[Path]) -> None:
    for file in files:
        if file.exists():
            raise ConfigError(
                f"{file}: exists already; choose another --out, or delete it to write it again"
            )
    for run in runs:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise ConfigError(
                f"{run}: not empty, but the runs of the config are named after it; choose another "
                "--out"
            )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
