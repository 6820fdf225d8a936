"""Datasets of the Hugging Face `datasets` library, with images decoded by imagetok."""

from io import BytesIO
from pathlib import Path
from typing import Any, final

from imagetok.data.base import NO_LABEL
from imagetok.data.compressed_images import CompressedImages, file_size
from imagetok.data.config import HuggingFaceConfig
from imagetok.data.image_decoding import EncodedFile, ImageError, open_encoded
from imagetok.data.labels_and_splits import (
    actual_split,
    label_text,
    named_splits,
    number_labels,
    split_indices,
)
from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.images import ImageContract
from imagetok.optional import require
from imagetok.suggestions import did_you_mean

_ROWS = 4096


@final
class HuggingFaceImages(CompressedImages):
    """The rows of one `datasets.Dataset`."""

    def __init__(
        self,
        rows: Any,
        column: str,
        *,
        split: str,
        contract: ImageContract,
        labels: list[int],
        class_names: tuple[str, ...],
    ):
        """Store the rows; their `column` holds the bytes or the path of an encoded image."""
        super().__init__("huggingface", split, contract, labels, class_names)
        self.rows = rows
        self.column = column

    def encoded(self, index: int) -> EncodedFile:
        """Read the bytes of one row, or open its file."""
        image, where = self.rows[index][self.column] or {}, self.path_of(index)
        if image.get("bytes") is not None:
            return BytesIO(image["bytes"])
        if image.get("path") is None:
            raise ImageError(f"{where}: expected an image, found none", where, "missing")
        return open_encoded(image["path"])

    def contents(self) -> list[tuple[str, int]]:
        """Return file name and size in bytes of each row; an empty name and 0 without an image."""
        import pyarrow.compute  # pyright: ignore[reportMissingImports]

        found = []
        for table in self.rows.with_format("arrow").iter(_ROWS):
            images = table[self.column].combine_chunks()
            lengths = pyarrow.compute.binary_length  # pyright: ignore[reportAttributeAccessIssue]
            sizes = lengths(images.field("bytes")).to_pylist()
            paths = images.field("path").to_pylist()
            for path, size in zip(paths, sizes, strict=True):
                if size is None:
                    size = file_size(Path(path)) if path else 0
                found.append((Path(path or "").name, size))
        return found


def open_huggingface(
    config: HuggingFaceConfig, split: str, contract: ImageContract
) -> HuggingFaceImages:
    """Open a dataset on the Hub or in a folder (parquet, image folder, or saved to disk).

    Split test is the dataset's test, otherwise its validation, otherwise held out from train.
    Raises ResourceError without the package or the network, InputError for a dataset that cannot
    be opened, ConfigError for an unknown split or column.
    """
    datasets = require("datasets", extra="data", purpose="data.source huggingface")
    parts = _load(datasets, config)
    chosen = _rows(datasets, parts, split, config)
    features = chosen.features
    for column in filter(None, (config.image, config.label)):
        if column not in features:
            raise ConfigError(
                f"{config.name}: expected a column {column!r}, found {', '.join(features)}"
                f"{did_you_mean(column, features)}; name the columns with image=, label= (empty "
                "for none)"
            )
    if not isinstance(features[config.image], datasets.Image):
        raise ConfigError(
            f"{config.name}: expected images in column {config.image!r}, found "
            f"{type(features[config.image]).__name__}; name another column with image="
        )
    labels, class_names = _labels(datasets, parts, chosen, config)
    images = chosen.select_columns([config.image])
    return HuggingFaceImages(
        images.cast_column(config.image, datasets.Image(decode=False)),
        config.image,
        split=split,
        contract=contract,
        labels=labels,
        class_names=class_names,
    )


def _load(datasets: Any, config: HuggingFaceConfig) -> dict[str, Any]:
    """Load the rows of each split."""
    folder = Path(config.name).expanduser()
    try:
        if any((folder / f"dataset_{kind}.json").is_file() for kind in ("info", "dict")):
            loaded = datasets.load_from_disk(str(folder))
        elif folder.is_dir():
            loaded = datasets.load_dataset(str(folder), config.subset or None)
        else:
            name, _, revision = config.name.partition("@")
            loaded = datasets.load_dataset(name, config.subset or None, revision=revision or None)
    except Exception as error:  # several libraries raise exceptions of many kinds
        kind = ResourceError if isinstance(error, ConnectionError | TimeoutError) else InputError
        raise kind(
            f"huggingface: {config.name}: cannot be opened ({error}); expected a folder, or "
            "user/name[@revision] of a dataset on the Hub"
        ) from None
    if isinstance(loaded, datasets.Dataset):
        return {"train": loaded}
    names = [str(name) for name in loaded]
    known = named_splits(names, config.name, "rename or join them with the datasets library")
    renamed = {name: split for split, name in known.items()}
    return {renamed.get(str(name), str(name)): rows for name, rows in loaded.items()}


def _rows(datasets: Any, parts: dict[str, Any], split: str, config: HuggingFaceConfig) -> Any:
    if split == "all":
        return datasets.concatenate_datasets(list(parts.values()))
    if "train" in parts and parts.keys().isdisjoint({"val", "test"}) and split != "val":
        rows = parts["train"]
        return rows.select(split_indices(len(rows), split, config.holdout, config.name))
    return parts[actual_split(parts, split, config.name)]


def _labels(
    datasets: Any, parts: dict[str, Any], chosen: Any, config: HuggingFaceConfig
) -> tuple[list[int], tuple[str, ...]]:
    """Return labels and class names of the chosen rows, numbered the same in every split."""
    if not config.label:
        return [NO_LABEL] * len(chosen), ()
    feature, written = chosen.features[config.label], list(chosen[config.label])
    if isinstance(feature, datasets.ClassLabel):
        return [NO_LABEL if label is None else label for label in written], tuple(feature.names)
    values = [label_text(value) for rows in parts.values() for value in rows[config.label]]

    def where(i: int) -> str:
        for part, rows in parts.items():
            if i < len(rows):
                return f"{config.name}: {part}, row {i}"
            i -= len(rows)
        raise IndexError(i)

    labels, class_names = number_labels(values, where)
    known = dict(zip(values, labels, strict=True))
    return [known[label_text(value)] for value in written], class_names
