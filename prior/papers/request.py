"""The arguments of `reproduce`: what differs from the paper, and the command to record."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagetok.config import Overrides, apply_overrides, override_texts
from imagetok.errors import ConfigError
from imagetok.named_configs import NamedFigure

_PLACE = re.compile(r"""(^|[\s:='"\[{,])(~|\.\.?)?/""")
"""The start of a path in a setting, not of a Hub id such as user/name."""

_VARIED = "it is what the figure varies; choose another --only, or another figure"
_OF_PRIORS = {
    "seed": "choose --seeds",
    **dict.fromkeys(("tokenizer", "data.source", "data.test"), "each prior has its own"),
}


@dataclass(frozen=True)
class FigureRequest:
    """A table or figure, and how it is to be made; see `reproduce`."""

    figure: NamedFigure
    only: tuple[str, ...]
    seeds: tuple[int, ...]
    """Empty for the paper's."""
    settings: tuple[str, ...]
    prior_settings: tuple[str, ...]
    features: tuple[str, ...]
    """Empty for the paper's."""
    num_samples: int | None
    download: bool

    def chosen_seeds(self) -> tuple[int, ...]:
        """Return the seeds; raise ConfigError if one occurs twice."""
        seeds = self.seeds or self.figure.seeds
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"--seeds: expected different seeds, found {list(seeds)}")
        return seeds

    def chosen(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the data sets and methods that `only` leaves; ConfigError for another name."""
        data, methods = self.figure.sheet.data, self.figure.sheet.methods
        unknown = [name for name in self.only if name not in (*data, *methods)]
        if unknown:
            raise ConfigError(
                f"--only {unknown[0]}: expected a data set or method of {self.figure.name}: "
                f"{', '.join((*data, *methods))}"
            )
        kept = [
            tuple(name for name in names if name in self.only) or names for names in (data, methods)
        ]
        return kept[0], kept[1]

    def check_settings(self) -> None:
        """Raise ConfigError for settings that the figure sets, and for no samples."""
        varied = {*self.figure.sheet.x, *self.figure.sheet.series}
        for option, texts, its in (
            ("--set", self.settings, {"seed": "choose --seeds", **dict.fromkeys(varied, _VARIED)}),
            ("--prior-set", self.prior_settings, _OF_PRIORS),
        ):
            for key in (text.partition("=")[0].strip() for text in texts):
                for own, remedy in its.items():
                    if f"{own}.".startswith(f"{key}."):
                        raise ConfigError(
                            f"{option} {key}: {self.figure.name} sets {own}; {remedy}"
                        )
        if self.num_samples is not None and self.num_samples < 1:
            raise ConfigError(f"--samples: expected 1 or more, found {self.num_samples}")

    def changed(self, tree: Mapping[str, Any], data: str) -> dict[str, Any]:
        """Return the config of a tokenizer on a data set with the settings applied."""
        return self._downloading(apply_overrides(dict(tree), self.settings), data)

    def changed_images(self, data: str) -> dict[str, Any]:
        """Return `data` and `image` of a data set with the settings that concern them."""
        own = self.figure.data_settings[data]
        tree = {"data": dict(own["data"]), "tokenizer": {"image": dict(own["tokenizer.image"])}}
        about = [text for text in self.settings if text.startswith(("data", "tokenizer.image"))]
        tree = self._downloading(apply_overrides(tree, about), data)
        return {"data": tree["data"], "image": tree["tokenizer"]["image"]}

    def _downloading(self, tree: dict[str, Any], data: str) -> dict[str, Any]:
        is_asked = self.download and data in self.figure.downloads
        return apply_overrides(tree, {"data.download": True}) if is_asked else tree

    def command(self) -> str:
        """Return the command line without paths of this machine."""
        words = [
            word for name, texts in self._options().items() for t in texts for word in (name, t)
        ]
        words += ["--download"] if self.download else []
        return shlex.join(["imagetok", "reproduce", self.figure.name, *words])

    def deviations(self) -> tuple[str, ...]:
        """Return the settings that are not those of the paper."""
        return tuple(
            f"{name.removeprefix('--')} {text}"
            for name, texts in self._options().items()
            for text in texts
            if name != "--only" and not text.startswith("data.root=")
            if name != "--features" or self.other_network()
        )

    def other_network(self) -> str:
        """Return the networks of the distances if they are not the paper's; else an empty text."""
        networks = [spec.partition("=")[0] for spec in self.features]
        are_the_papers = sorted(networks) == sorted(self.figure.sheet.features)
        return "" if are_the_papers else " and ".join(networks)

    def _options(self) -> dict[str, list[str]]:
        return {
            "--only": list(self.only),
            "--seeds": [",".join(map(str, self.seeds))] if self.seeds else [],
            "--set": [_without_places(text) for text in self.settings],
            "--prior-set": [_without_places(text) for text in self.prior_settings],
            "--features": [_without_folder(spec) for spec in self.features],
            "--samples": [] if self.num_samples is None else [str(self.num_samples)],
        }


def request_for(
    figure: NamedFigure,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    settings: Overrides = (),
    prior_settings: Overrides = (),
    features: Sequence[str] = (),
    num_samples: int | None = None,
    download: bool = False,
) -> FigureRequest:
    """Return the arguments of `reproduce` in one form."""
    return FigureRequest(
        figure,
        tuple(only),
        tuple(seeds),
        tuple(override_texts(settings)),
        tuple(override_texts(prior_settings)),
        tuple(features),
        num_samples,
        download,
    )


def _without_places(text: str) -> str:
    """Return an override for the record of a command, without a path of this machine."""
    key, _, value = text.partition("=")
    has_place = _PLACE.search(value) or (key.startswith("data") and "/" in value)
    return f"{key}=..." if has_place else text


def _without_folder(spec: str) -> str:
    name, equals, file = spec.partition("=")
    return f"{name}{equals}{Path(file).name}"
