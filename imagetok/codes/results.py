"""Results of the functions that write or read code datasets."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from imagetok.codes.dataset_commit import EncodeReport
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.schema import LevelUse, Skip
from imagetok.data import open_image
from imagetok.pictures import grid
from imagetok.quantizers import level_name
from imagetok.results import Result
from imagetok.suggestions import counted


@dataclass(frozen=True, repr=False)
class Encoded(Result):
    """A finished code dataset and its totals, with `inputs == written + skipped`."""

    folder: Path
    inputs: int
    written: int
    skipped: int
    skips: tuple[Skip, ...]
    """Each skipped input with its path and reason; filled on the main process only."""
    num_shards: int
    num_bytes: int
    usage: tuple[LevelUse, ...]
    """Codebook utilisation per level, coarse to fine."""
    views: int = 1
    """Views of each image; each of them is an input."""

    @property
    def num_images(self) -> int:
        """Number of images that were to be encoded, skipped ones included."""
        return self.inputs // self.views

    @property
    def skipped_images(self) -> tuple[Skip, ...]:
        """One skip for each skipped image, of which all views are skipped."""
        return self.skips[:: self.views]

    @classmethod
    def of(cls, folder: Path, report: EncodeReport) -> "Encoded":
        """Make the result from the writer's report."""
        return cls(
            folder,
            report.inputs,
            report.written,
            report.skipped,
            tuple(report.skips),
            report.num_shards,
            report.num_bytes,
            report.usage,
            report.views,
        )

    @cached_property
    def dataset(self) -> CodeDataset:
        """The code dataset, opened."""
        return open_codes(self.folder)

    def title(self) -> str:
        """Return a heading that names the folder."""
        return f"code dataset {self.folder}"

    def rows(self) -> Mapping[str, object]:
        """Return the totals and each level's codebook utilisation."""
        rows: dict[str, object] = {
            **({"images": self.num_images, "views of each": self.views} if self.views > 1 else {}),
            "inputs": self.inputs,
            "written": self.written,
            "skipped": self.skipped,
            "shards": self.num_shards,
            "bytes": self.num_bytes,
        }
        for level, use in enumerate(self.usage):
            used, perplexity = (
                level_name(name, level, len(self.usage)) for name in ("codes_used", "perplexity")
            )
            rows |= {used: f"{use.codes_used} of {use.num_codes}", perplexity: use.perplexity}
        return rows


@dataclass(frozen=True, repr=False)
class EncodingEstimate(Result):
    """Predicted size and time of an encoding (`dry_run`); nothing was written."""

    folder: Path
    inputs: int
    num_shards: int
    num_bytes: int
    seconds: float
    free_bytes: int
    """Free bytes on the disk of the folder."""
    agreement: Mapping[str, float]
    """Share of the codes of the first images that equal those of float32, by precision: `bfloat16`,
    and `tf32` on GPUs that have it."""
    views: int = 1
    """Views of each image; each of them is an input."""

    def title(self) -> str:
        """Return a heading that names the folder."""
        return f"estimate for a code dataset {self.folder}; nothing was written"

    def rows(self) -> Mapping[str, object]:
        """Return size, time and free disk space."""
        return {
            "inputs": self.inputs,
            "shards": self.num_shards,
            "bytes, about": self.num_bytes,
            "bytes free": self.free_bytes,
            "seconds, about": self.seconds,
            **{f"codes as in float32, {name}": share for name, share in self.agreement.items()},
        }


@dataclass(frozen=True, repr=False)
class Decoded(Result):
    """A folder of decoded images, one PNG each, named by source index."""

    folder: Path
    num_images: int
    num_new: int
    """Number of images that this call wrote; the others existed already."""

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """All decoded images of the folder, in order of source index."""
        found = self.folder.rglob("*.png")
        return tuple(sorted(found, key=lambda file: (file.parent, int(file.stem))))

    def title(self) -> str:
        """Return a heading that names the folder."""
        return f"decoded images in {self.folder}"

    def rows(self) -> Mapping[str, object]:
        """Return the numbers of images."""
        return {"images": self.num_images, "new": self.num_new}

    def pictures(self) -> Mapping[str, np.ndarray]:
        """Return a picture of the first images."""
        shown = self.files[:16]
        if not shown:
            return {}
        images = np.stack([np.atleast_3d(open_image(file)) for file in shown])  # (N, H, W, C)
        first = grid(images.transpose(0, 3, 1, 2), columns=8)
        return {f"first {counted(len(shown), 'image')}": np.asarray(first)}


@dataclass(frozen=True, repr=False)
class Exported(Result):
    """A code dataset that was written in another format."""

    path: Path
    form: str
    num_images: int

    def title(self) -> str:
        """Return a heading that names format and path."""
        return f"codes as {self.form} in {self.path}"

    def rows(self) -> Mapping[str, object]:
        """Return the number of images."""
        return {"images": self.num_images}
