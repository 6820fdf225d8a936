"""Schema of a code dataset: plan (written first), a record per shard, and manifest (last)."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from imagetok.config import Section
from imagetok.data.views import MAX_CROP_RANGE
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError, ShardError
from imagetok.images import ImageContract
from imagetok.io import json_files
from imagetok.io.json_files import as_section, read_section
from imagetok.precision import EncodePrecision
from imagetok.suggestions import counted

PLAN, MANIFEST, INDEX = "plan.json", "manifest.json", "index.json"
FORMAT_VERSION = 1
MICRO_BATCH = 64
MAX_JSON_BYTES = json_files.MAX_BYTES


class TokenizerId(Section):
    """The tokenizer that made the codes; `name` is for readers only and never compared."""

    fingerprint: str
    """Its `codes_fingerprint`, which a tokenizer keeps when its decoder alone is trained again."""
    name: str


class MergedPart(Section):
    """One of the datasets that a merged dataset consists of."""

    source: str
    source_identity: str
    num_inputs: NonNegativeInt

    @property
    def whole_identity(self) -> str:
        """Identity of all images of the source, also if only the first were encoded."""
        return self.source_identity.split("[:")[0]  # `--limit N` adds "[:N]"


class CodePlan(Section):
    """Everything that determines a code dataset; the same in every process and every rerun."""

    format_version: Literal[1] = FORMAT_VERSION
    tokenizer: TokenizerId
    num_codes: tuple[PositiveInt, ...]
    """Codebook size K of each level, coarse to fine."""
    grids: tuple[tuple[PositiveInt, PositiveInt], ...]
    """Grid size (h, w) of each level, coarse to fine."""
    image: ImageContract
    """Size, channels and preprocessing of the images."""
    source: str
    """Data spec of the images, including the split."""
    source_identity: str
    """Identity of the images, which changes with them; see `ImageDataset.identity`."""
    num_inputs: NonNegativeInt
    labelled: bool
    class_names: tuple[str, ...]
    samples_per_block: PositiveInt = 1024
    samples_per_shard: PositiveInt = 65536
    micro_batch: PositiveInt = MICRO_BATCH
    """Images per forward pass; part of the plan because it can change the last bit of a feature."""
    precision: EncodePrecision = "float32"
    """Arithmetic of the encoder."""
    parts: tuple[MergedPart, ...] = ()
    """Parts of a merged dataset, in order; its source indices run through all of them."""
    views: PositiveInt = 1
    """Views of each image; an input is a view of an image, index = image x views + view."""
    crop_range: Annotated[float, Field(ge=1, le=MAX_CROP_RANGE)] = 1.0
    """Size of the picture that views are cut from, relative to `image`."""
    added: ClassVar[tuple[str, ...]] = ("parts", "views", "crop_range")

    @model_validator(mode="after")
    def _check(self) -> "CodePlan":
        whole = {"samples_per_shard": self.samples_per_shard, "num_inputs": self.num_inputs}
        whole |= {f"parts.{i}.num_inputs": part.num_inputs for i, part in enumerate(self.parts)}
        for name, size in whole.items():
            if size % self.views:
                raise ValueError(
                    f"{name}: expected a multiple of {self.views}, the views, found {size}"
                )
        if sum(self._part_sizes()) != self.num_inputs:
            raise ValueError("parts: the sum of their num_inputs differs from num_inputs")
        return self

    @property
    def num_images(self) -> int:
        """Number of images, each with `views` views."""
        return self.num_inputs // self.views

    @property
    def num_shards(self) -> int:
        """Number of shards; each shard belongs to one part."""
        return sum(-(-size // self.samples_per_shard) for size in self._part_sizes())

    def input_range(self, shard: int) -> range:
        """Return the source indices that a shard covers."""
        part, start = self._place(shard)
        end = min(start + self.samples_per_shard, self._part_sizes()[part])
        first = self.index_offset(shard)
        return range(first + start, first + end)

    def index_offset(self, shard: int) -> int:
        """Return the offset of a shard's stored indices: the inputs of all parts before its own."""
        return sum(self._part_sizes()[: self._place(shard)[0]])

    def _part_sizes(self) -> list[int]:
        return [part.num_inputs for part in self.parts] or [self.num_inputs]

    def _place(self, shard: int) -> tuple[int, int]:
        """Return the number of a shard's part, and the shard's first input within that part."""
        for part, size in enumerate(self._part_sizes()):
            shards = -(-size // self.samples_per_shard)
            if shard < shards:
                return part, shard * self.samples_per_shard
            shard -= shards
        raise IndexError(f"shard index is out of range for {counted(self.num_shards, 'shard')}")

    def code_dtype(self, level: int) -> np.dtype[Any]:
        """Return the smallest little-endian unsigned integer type that holds a level's K - 1."""
        return smallest_dtype(self.num_codes[level])

    def member_suffixes(self) -> list[str]:
        """Return the names of a block's tar members in order, without the block number."""
        levels = len(self.num_codes)
        codes = ["codes.npy"] if levels == 1 else [f"codes{i}.npy" for i in range(levels)]
        return [*codes, *(["labels.npy"] if self.labelled else []), "index.npy"]


class Skip(Section):
    """An input that could not be encoded."""

    index: NonNegativeInt
    path: str
    reason: str


class Member(Section):
    """Position, type and shape of one array in the tar."""

    offset: NonNegativeInt
    """Byte offset of the data; 64-byte aligned."""
    dtype: str
    shape: tuple[NonNegativeInt, ...]


class ShardRecord(Section):
    """The record of a shard, written after its tar; a shard without a record is not finished."""

    shard: NonNegativeInt
    file: str
    sha256: str
    bytes: NonNegativeInt
    samples: NonNegativeInt
    first_input: NonNegativeInt
    end_input: NonNegativeInt
    skipped: tuple[Skip, ...]
    counts: tuple[tuple[NonNegativeInt, ...], ...]
    """Number of occurrences of each code, per level."""
    blocks: tuple[dict[str, Member], ...]
    """Position of each array by member suffix, per block."""


class ShardEntry(Section):
    """A shard's entry in the manifest."""

    file: str
    sha256: str
    bytes: NonNegativeInt
    samples: NonNegativeInt
    record_sha256: str


class LevelUse(Section):
    """Codebook utilisation of one level over the whole dataset."""

    num_codes: PositiveInt
    codes_used: NonNegativeInt
    perplexity: float


class Manifest(Section):
    """The manifest, written last; a dataset without one is not finished."""

    format_version: Literal[1] = FORMAT_VERSION
    plan_sha256: str
    shards: tuple[ShardEntry, ...]
    inputs: NonNegativeInt
    written: NonNegativeInt
    skipped: NonNegativeInt
    usage: tuple[LevelUse, ...]
    root: str = ""
    """sha256 of all other fields, which in turn cover the plan, the records and the shards."""

    def expected_root(self) -> str:
        """Compute the value that `root` must have."""
        content = self.model_dump(mode="json", exclude={"root"})
        return hashlib.sha256(canonical_json(content)).hexdigest()


def smallest_dtype(num_codes: int) -> np.dtype[Any]:
    """Return the smallest little-endian unsigned integer type for codes in [0, num_codes)."""
    for dtype in ("<u1", "<u2", "<u4"):
        if num_codes - 1 <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise ConfigError(f"num_codes: expected at most 2**32, found {num_codes}")


def shard_name(shard: int) -> str:
    """Return the file stem of a shard: `00012` for shard 12."""
    return f"{shard:05d}"


M = TypeVar("M", bound=Section)


def read_json(path: Path, cls: type[M]) -> M:
    """Read a JSON file as a section; raises ShardError when it is missing or invalid."""
    return read_section(path, cls, ShardError)


def parse_json(data: bytes, cls: type[M], where: str) -> M:
    """Parse JSON as a section; raises ShardError, naming `where`, when it is invalid."""
    return as_section(json_files.parse_json(data, where, ShardError), cls, where, ShardError)
