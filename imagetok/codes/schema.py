"""What a code dataset is: the plan written first, a record per shard, the manifest written last."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import (
    NonNegativeInt,
    PositiveInt,
    model_serializer,
    model_validator,
)

from imagetok.config import Section
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError, ShardError
from imagetok.images import ImageContract
from imagetok.io import json_files
from imagetok.io.json_files import as_section, read_section

PLAN, MANIFEST = "plan.json", "manifest.json"
FORMAT_VERSION = 1
MAX_JSON_BYTES = json_files.MAX_BYTES


Precision = Literal["float32", "bfloat16"]


class TokenizerId(Section):
    """The tokenizer that codes are bound to; `name` is only for people."""

    fingerprint: str
    name: str


class MergedPart(Section):
    """One of the datasets that a merged one joins."""

    source: str
    source_identity: str
    num_inputs: NonNegativeInt


class CodePlan(Section):
    """What will be made: immutable, and equal for every process and every rerun."""

    format_version: Literal[1] = FORMAT_VERSION
    tokenizer: TokenizerId
    num_codes: tuple[PositiveInt, ...]
    """K of each level, coarse to fine."""
    grids: tuple[tuple[PositiveInt, PositiveInt], ...]
    """(h, w) of each level."""
    image: ImageContract
    """The preprocessing."""
    source: str
    """The data spec, split included."""
    source_identity: str
    """A hash that changes with the images; see `ImageDataset.identity`."""
    num_inputs: NonNegativeInt
    labelled: bool
    class_names: tuple[str, ...]
    samples_per_block: PositiveInt = 1024
    samples_per_shard: PositiveInt = 65536
    micro_batch: PositiveInt = 64
    """Images per forward pass; in the plan, because it can change the last bit of a feature."""
    precision: Precision = "float32"
    """Of the encoder's arithmetic."""
    parts: tuple[MergedPart, ...] = ()
    """Of a merged dataset: what it joins, in order. Its source indices count through them all."""

    @model_validator(mode="after")
    def _check(self) -> "CodePlan":
        if sum(self._part_sizes()) != self.num_inputs:
            raise ValueError("parts: their inputs do not add up to num_inputs")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without `parts` where there are none, so that the bytes of a plan stay as they were."""
        tree = handler(self)
        return tree if self.parts else {key: tree[key] for key in tree if key != "parts"}

    @property
    def num_shards(self) -> int:
        """How many shards the dataset has; each belongs to one part."""
        return sum(-(-size // self.samples_per_shard) for size in self._part_sizes())

    def input_range(self, shard: int) -> range:
        """The source indices that a shard covers."""
        part, start = self._place(shard)
        end = min(start + self.samples_per_shard, self._part_sizes()[part])
        first = self.index_offset(shard)
        return range(first + start, first + end)

    def index_offset(self, shard: int) -> int:
        """What to add to the indices that a shard holds: the inputs of all parts before its own."""
        return sum(self._part_sizes()[: self._place(shard)[0]])

    def _part_sizes(self) -> list[int]:
        return [part.num_inputs for part in self.parts] or [self.num_inputs]

    def _place(self, shard: int) -> tuple[int, int]:
        """The part that a shard belongs to, and its first input within it."""
        for part, size in enumerate(self._part_sizes()):
            shards = -(-size // self.samples_per_shard)
            if shard < shards:
                return part, shard * self.samples_per_shard
            shard -= shards
        raise IndexError("a shard that the plan does not have")

    def code_dtype(self, level: int) -> np.dtype[Any]:
        """The smallest little-endian unsigned type that holds K - 1."""
        return smallest_dtype(self.num_codes[level])

    def member_suffixes(self) -> list[str]:
        """The tar members of a block, without its number, in order."""
        levels = len(self.num_codes)
        codes = ["codes.npy"] if levels == 1 else [f"codes{i}.npy" for i in range(levels)]
        return [*codes, *(["labels.npy"] if self.labelled else []), "index.npy"]


class Skip(Section):
    """An input that could not be encoded."""

    index: NonNegativeInt
    path: str
    reason: str


class Member(Section):
    """Where one array lies in the tar."""

    offset: NonNegativeInt
    """Of the data, in bytes, 64-byte aligned."""
    dtype: str
    shape: tuple[NonNegativeInt, ...]


class ShardRecord(Section):
    """A shard's commit record."""

    shard: NonNegativeInt
    file: str
    sha256: str
    bytes: NonNegativeInt
    samples: NonNegativeInt
    first_input: NonNegativeInt
    end_input: NonNegativeInt
    skipped: tuple[Skip, ...]
    counts: tuple[tuple[NonNegativeInt, ...], ...]
    """How often each code occurs, per level."""
    blocks: tuple[dict[str, Member], ...]
    """Per block: member suffix -> where it lies."""


class ShardEntry(Section):
    """A shard as the manifest lists it."""

    file: str
    sha256: str
    bytes: NonNegativeInt
    samples: NonNegativeInt
    record_sha256: str


class LevelUse(Section):
    """How one level's codebook is used over the whole dataset."""

    num_codes: PositiveInt
    codes_used: NonNegativeInt
    perplexity: float


class Manifest(Section):
    """The commit record of a whole dataset."""

    format_version: Literal[1] = FORMAT_VERSION
    plan_sha256: str
    shards: tuple[ShardEntry, ...]
    inputs: NonNegativeInt
    written: NonNegativeInt
    skipped: NonNegativeInt
    usage: tuple[LevelUse, ...]
    root: str = ""
    """sha256 of everything above, hence of plan, records and shards."""

    def expected_root(self) -> str:
        """What `root` must be."""
        content = self.model_dump(mode="json", exclude={"root"})
        return hashlib.sha256(canonical_json(content)).hexdigest()


def smallest_dtype(num_codes: int) -> np.dtype[Any]:
    """The smallest little-endian unsigned integer type for codes in [0, num_codes)."""
    for dtype in ("<u1", "<u2", "<u4"):
        if num_codes - 1 <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise ConfigError(f"{num_codes} codes do not fit 32 bits")


def shard_name(shard: int) -> str:
    """`00012` for shard 12."""
    return f"{shard:05d}"


M = TypeVar("M", bound=Section)


def read_json(path: Path, cls: type[M]) -> M:
    """A JSON file as a typed section; ShardError when it is missing or not of that form."""
    return read_section(path, cls, ShardError)


def parse_json(data: bytes, cls: type[M], where: str) -> M:
    """JSON as a typed section; ShardError, which names `where`, when it is not of that form."""
    return as_section(json_files.parse_json(data, where, ShardError), cls, where, ShardError)
