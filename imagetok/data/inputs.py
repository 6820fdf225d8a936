"""Images as callers give them: a path, a spec, a config, or a dataset."""

from pathlib import Path
from typing import NamedTuple

from imagetok.config import Section
from imagetok.data import DataConfig, describe, open_images, parse_spec
from imagetok.data.base import ImageDataset
from imagetok.images import ImageContract


class OpenedImages(NamedTuple):
    """Images in the form of a contract, and what records call their source."""

    dataset: ImageDataset
    source: str


def open_inputs(
    data: ImageDataset | DataConfig | Path | str,
    contract: ImageContract,
    split: str | None = None,
) -> OpenedImages:
    """The images that `data` stands for, brought to `contract`.

    data: a spec such as `digits:test` or the path of a folder, table or tar (see `parse_spec`); a
    data config; or a dataset, which must have the contract's form. split: of a config.
    """
    if isinstance(data, ImageDataset):
        return OpenedImages(data, f"{data.name}:{data.split}")
    if isinstance(data, Section):
        config, split = data, split or "train"
    else:
        config, split = parse_spec(str(data))
    return OpenedImages(open_images(config, split, contract), describe(config, split))
