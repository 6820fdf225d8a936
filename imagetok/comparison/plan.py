"""The plan of a comparison: one trial per method and seed, with checks that they are comparable."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from imagetok.comparison.sweep_configs import sweep_variants
from imagetok.config import (
    Section,
    apply_overrides,
    differences,
    dump_yaml,
    validate,
    value_at,
)
from imagetok.data import DataConfig, HuggingFaceConfig, describe, open_images
from imagetok.durable import lock, remove_temporaries, write_bytes, write_json
from imagetok.errors import ConfigError, InputError
from imagetok.io.json_files import read_json
from imagetok.io.url_secrets import public_url
from imagetok.named_configs import NamedConfig, find_config
from imagetok.suggestions import shown
from imagetok.training.config import TokenizerRun
from imagetok.training.run_folder import recorded_lengths

SEEDS = (42, 1773, 1)
"""The seeds of the EdVAE paper."""
MAY_DIFFER = ("tokenizer.network", "train.steps", "train.batch_size")
"""Keys in which methods may differ if the user allows it."""
_MUST_AGREE = ("data", "augment", "tokenizer.image")
_PLACES = ("root", "download", "file", "images", "masks", "shards", "test")
"""Keys of `data` with locations of images; the images themselves are identified by hashes."""
WITHOUT_EFFECT = ("keep_checkpoints", "workers", "trackers")
"""Keys of `train` that do not affect results: what is kept, reading and logging."""
PLAN = "plan.json"


class Trial(NamedTuple):
    """One method trained with one seed."""

    method: str
    seed: int
    steps: int
    config: Path
    """The method's config, with the overrides applied."""
    folder: Path
    """The run folder."""
    log: Path
    """The log file of the training process."""


class ComparisonPlan(Section):
    """Methods by name with their configs (their `seed` is ignored), and seeds."""

    seeds: tuple[int, ...]
    methods: dict[str, TokenizerRun]
    train_identity: str
    """Hash of the training images."""
    test_identity: str

    @property
    def data(self) -> DataConfig:
        """The data that all methods are trained and measured on."""
        return next(iter(self.methods.values())).data

    @property
    def max_skip(self) -> str:
        """Unreadable images of each split to allow."""
        return next(iter(self.methods.values())).max_skip

    def trials(self, out: Path) -> list[Trial]:
        """Return all trials of a comparison in the folder `out`, method by method."""
        return [
            Trial(
                name,
                seed,
                config.train.steps,
                out / f"{name}.yaml",
                out / name / f"seed-{seed}",
                out / name / f"seed-{seed}.log",
            )
            for name, config in self.methods.items()
            for seed in self.seeds
        ]

    def different(self) -> dict[str, list[Any]]:
        """Return the keys of `MAY_DIFFER` in which methods differ, with each method's value."""
        trees = [config.model_dump(mode="json") for config in self.methods.values()]
        keys = [
            key
            for part in MAY_DIFFER
            for key in _shortest({k: None for t in trees for k in _differing(trees[0], t, part)})
        ]
        return {key: [value_at(tree, key) for tree in trees] for key in dict.fromkeys(keys)}

    def identity(self) -> dict[str, Any]:
        """Return everything that the results depend on, as plain data."""
        methods = {name: method_identity(config) for name, config in self.methods.items()}
        return {**self.model_dump(mode="json"), "methods": methods}

    def data_name(self) -> str:
        """Return the measured split as a `--data` spec without paths."""
        data = self.data
        options = data.model_dump(
            mode="json", exclude_defaults=True, exclude={"source", *_places(data)}
        )
        return ",".join([f"{data.source}:test", *(f"{k}={v}" for k, v in options.items())])

    def with_recorded_lengths(self, out: Path) -> "ComparisonPlan":
        """Return the plan with the schedule lengths recorded in `out`, if it is continued there.

        So a comparison that was started with configs that stated these lengths can be continued
        with configs that omit them.
        """
        try:
            stored = read_json(out / PLAN)
        except (OSError, ValueError):
            return self  # a new comparison; `hold` refuses a damaged plan
        known = value_at(stored, "methods")
        if not isinstance(known, dict):
            return self
        methods = {
            name: recorded_lengths(config, known.get(name), out / PLAN)
            for name, config in self.methods.items()
        }
        return self.model_copy(update={"methods": methods})

    @contextmanager
    def hold(self, out: Path) -> Iterator[None]:
        """Lock the folder of this comparison; raise ConfigError if it holds something else."""
        with lock(out):
            if (out / PLAN).is_file():
                self._check_same(out / PLAN)
            elif any(out.iterdir()):
                raise ConfigError(f"{out}: not empty and no comparison; choose another --out")
            remove_temporaries(out)
            for name, config in self.methods.items():
                write_bytes(out / f"{name}.yaml", dump_yaml(config).encode())
                (out / name).mkdir(exist_ok=True)
            write_json(out / PLAN, self.identity())
            yield

    def _check_same(self, path: Path) -> None:
        try:
            stored = read_json(path)
        except InputError:
            raise ConfigError(f"{path}: the file is damaged; choose another --out") from None
        changed = differences(stored, self.identity())
        if changed:
            raise ConfigError(
                f"{path.parent}: holds another comparison:\n"
                f"{_listed(changed, 'stored', 'requested')}\n"
                "pass the same configs, seeds and settings, or choose another --out"
            )


def make_plan(
    configs: Sequence[Path | str],
    seeds: Sequence[int] = SEEDS,
    overrides: Sequence[str] = (),
    allow_different: Sequence[str] = (),
    sweeps: Sequence[str] = (),
) -> ComparisonPlan:
    """Read the configs to compare and check that they are comparable.

    configs: files or names of configs; methods are named after them. overrides: `a.b=value`, for
    every config. sweeps: `a.b=V1,V2`; each value makes another method of each config.
    allow_different: keys of `MAY_DIFFER` that may differ.

    Raises ConfigError, with the keys that differ, if the methods are not comparable.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise ConfigError(f"--seeds: expected different seeds, found {list(seeds)}")
    if any(text.partition("=")[0].strip() == "seed" for text in overrides):
        raise ConfigError("--set seed=...: use --seeds, which every method is trained with")
    methods: dict[str, TokenizerRun] = {}
    for name, found in _names(configs).items():
        tree = apply_overrides(found.tree, list(overrides))
        if tree.get("kind") != "tokenizer":
            raise ConfigError(
                f"{found.where}: kind: expected 'tokenizer', found {shown(tree.get('kind'))}"
            )
        config = validate(tree, TokenizerRun, found.where)
        for each, variant in ({name: config} | sweep_variants(name, tree, sweeps)).items():
            if each in methods:
                raise ConfigError(f"{found.where}: two methods have the name {each!r}")
            if variant == config and each != name:
                continue  # the value equals that of the config
            methods[each] = variant.model_copy(update={"seed": seeds[0]})
    for name, config in methods.items():
        _check_public(name, config.data)
        if config.trained != "all":
            raise ConfigError(
                f"{name}: trained: expected all, because a comparison trains every method from its "
                f"start, found {config.trained}; train the decoder of a finished trial with "
                "imagetok train --init-from"
            )
    train, test = _agreed(methods, allow_different)
    return ComparisonPlan(
        seeds=tuple(seeds), methods=methods, train_identity=train, test_identity=test
    )


def _check_public(name: str, data: DataConfig) -> None:
    """Raise ConfigError for URLs with secrets, which are never written to stored configs."""
    places = {key: getattr(data, key, "") for key in _PLACES}
    secret = [key for key, place in places.items() if public_url(str(place)) != str(place)]
    if secret:
        raise ConfigError(
            f"{name}: data.{secret[0]}: expected a URL without user, password and query, because "
            "a comparison stores its configs; copy the tar files to a local folder"
        )


def method_identity(config: TokenizerRun) -> dict[str, Any]:
    """Return a config as plain data without seed, paths, allowance and keys without effect."""
    tree = config.model_dump(mode="json", exclude={"seed", "max_skip"})
    for section, keys in (("data", _places(config.data)), ("train", WITHOUT_EFFECT)):
        for key in keys:
            tree[section].pop(key, None)
    return tree


def _places(data: DataConfig) -> tuple[str, ...]:
    """Return the keys of a source that hold locations; for `huggingface` also a local folder."""
    is_folder = isinstance(data, HuggingFaceConfig) and Path(data.name).expanduser().is_dir()
    return (*_PLACES, "name") if is_folder else _PLACES


def _names(configs: Sequence[Path | str]) -> dict[str, NamedConfig]:
    """Name each config after its file, with parent folders where file names collide."""
    found = [find_config(config) for config in configs]
    parts = [config.name.split("/") for config in found]
    names: dict[str, NamedConfig] = {}
    for config, own in zip(found, parts, strict=True):
        ends = [own[-count:] for count in range(1, len(own) + 1)]
        alone = [end for end in ends if sum(other[-len(end) :] == end for other in parts) == 1]
        name = "-".join(alone[0] if alone else own)
        if name in names:
            raise ConfigError(
                f"{config.where} and {names[name].where} would both be named {name!r}; pass each "
                "config once, with different file names"
            )
        names[name] = config
    return names


def _agreed(methods: dict[str, TokenizerRun], allow_different: Sequence[str]) -> tuple[str, str]:
    """Return the identities of training and test images; raise ConfigError if methods differ."""
    (first, reference), *others = methods.items()
    checked = [*_MUST_AGREE, *(key for key in MAY_DIFFER if key not in allow_different)]
    for name, config in others:
        one, two = method_identity(reference), method_identity(config)
        changed = {k: v for part in checked for k, v in _differing(one, two, part).items()}
        if changed:
            allowed = [key for key in MAY_DIFFER if any(k.startswith(key) for k in changed)]
            hints = "".join(f"; or add --allow-different {key}" for key in allowed)
            raise ConfigError(
                f"{first} and {name} are not comparable:\n{_listed(changed, first, name)}\n"
                f"make them equal, for example with --set{hints}"
            )
    identities = {
        config.data: tuple(
            open_images(config.data, split, config.tokenizer.image).identity()
            for split in ("train", "test")
        )
        for config in {c.data: c for c in methods.values()}.values()
    }
    if len(set(identities.values())) > 1:
        found = " and ".join(describe(data, "all") for data in identities)
        raise ConfigError(f"data: the images of {found} differ; use the same data in all configs")
    train, test = next(iter(identities.values()))
    return train, test


def _differing(one: Any, other: Any, part: str) -> dict[str, tuple[Any, Any]]:
    return differences(value_at(one, part), value_at(other, part), part)


def _shortest(keys: dict[str, None]) -> list[str]:
    """Reduce the keys of a section to its `kind` where that differs too."""
    kinds = [key for key in keys if key.endswith(".kind")]
    return [k for k in keys if k in kinds or not any(k.startswith(kind[:-4]) for kind in kinds)]


def _listed(changed: dict[str, tuple[Any, Any]], one: str, other: str) -> str:
    return "\n".join(f"  {key}: {a!r} {one}, {b!r} {other}" for key, (a, b) in changed.items())
