"""Converting tokenizers of other programs to artifacts of ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagetok.arguments import checked_count
from imagetok.conversion import emu3, vqgan
from imagetok.conversion.families import (
    Family,
    canonical_names,
    check_config,
    check_layers,
    families_like,
    find_family,
    setting_of,
)
from imagetok.conversion.layer_names import is_same_shape
from imagetok.conversion.sources import Source, open_source
from imagetok.errors import ArtifactError, ConfigError, InputError
from imagetok.io.markdown import plain
from imagetok.io.output_paths import new_folder
from imagetok.results import Result
from imagetok.suggestions import counted, one_line, shown
from imagetok.tokenizers.base import Tokenizer
from imagetok.tokenizers.build import build_skeleton

_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, repr=False)
class Converted(Result):
    """A tokenizer that was converted."""

    folder: Path
    """The folder of the artifact."""
    origin: str
    """The file that was read, or user/name@commit and the file."""
    license: str
    """License of the weights, or that the source states none."""
    tokenizer: Tokenizer
    """The tokenizer, on the CPU."""
    remarks: tuple[str, ...]
    """What differs from the origin's class, one sentence each."""

    @property
    def can_decode(self) -> bool:
        """Whether the source had a decoder."""
        return not getattr(self.tokenizer.config.network, "encode_only", False)

    def title(self) -> str:
        return f"{self.folder}: a tokenizer converted from {self.origin}"

    def rows(self) -> dict[str, object]:
        image, (grid, *_) = self.tokenizer.image, self.tokenizer.grids
        return {
            "parameters": f"{sum(p.numel() for p in self.tokenizer.parameters()):,}",
            "images": f"{image.height} x {image.width} pixels",
            "codes": f"{grid[0]} x {grid[1]} of {self.tokenizer.num_codes[0]:,}",
            "license": self.license,
            "fingerprint": self.tokenizer.fingerprint[:16],
            **{f"remark {n}": text for n, text in enumerate(self.remarks, start=1)},
        }


def convert(
    source: Path | str,
    family: str,
    out: Path | str,
    *,
    file: str | None = None,
    prefix: str | None = None,
    size: int | None = None,
    license: str | None = None,
) -> Converted:
    """Convert a tokenizer of another program to an artifact of ours.

    source: a file of weights (safetensors, or of torch.save), its folder, or a Hub id
    user/name[@revision]. Nothing in it is run. family: whose tokenizer it is; one of `FAMILIES`.
    out: new folder for the artifact. file: the file inside the folder or repository. prefix: the
    beginning of the names of the tokenizer's tensors, where a file holds several. size: side of the
    images in pixels, that of most published weights by default; other sizes can be encoded too.
    license: the license of the weights, for the model card; by default the one that the source's
    own card states.

    Raises InputError for weights that are damaged, unsafe or of another network, ConfigError for an
    unknown family, size or file, ArtifactError and ResourceError for the Hub's.
    """
    known = find_family(family)
    if size is not None and checked_count("size", size) > 2**16:
        raise ConfigError(f"size: expected a number of pixels from 1 to 65536, found {shown(size)}")
    folder = new_folder(out)
    opened = open_source(source, known.files, file, known.part)
    where = opened.origin
    _check_pixels(family, source, opened)
    check_config(known, opened.config, where)
    start = _prefix(opened, prefix, where)
    shapes = _named_from(opened.shapes, start, known)
    check_layers(known, shapes, where)
    canonical = canonical_names(known, shapes, where)
    sides = size or known.size, size or known.size
    form = emu3 if family == "emu3" else vqgan
    stated_setting = setting_of(known, opened.config, where)
    architecture = form.architecture_of(
        known,
        {name: shapes[own] for name, own in canonical.items()},
        stated_setting or known.setting.usual,
        sides,
        where,
    )
    tokenizer = _skeleton(architecture, where)
    wanted = form.wanted_names(tokenizer)
    _check_names(known, tokenizer, wanted, canonical, shapes, where)
    state = {
        ours: _read(opened, start + canonical[theirs], tokenizer.state_dict()[ours])
        for ours, theirs in wanted.items()
    }
    tokenizer.load_state_dict(state, strict=True, assign=True)
    tokenizer.requires_grad_(False).eval()
    stated = one_line(license or opened.license or "not stated in the source; ask its authors", 80)
    remarks = _remarks(known, is_stated=stated_setting is not None)
    notes = (
        _about(known, opened, len(state), start),
        f"License of the weights: {plain(stated)}.",
        *remarks,
    )
    tokenizer.save_pretrained(new_folder(folder), notes=notes)
    return Converted(folder, where, stated, tokenizer, remarks)


def _check_pixels(family: str, source: Path | str, opened: Source) -> None:
    """Refuse weights that are named as aMUSEd's as diffusers', whose pixels have another range."""
    named = f"{source} {opened.origin} {opened.config.get('_name_or_path', '')}"
    if family == "diffusers" and re.search(r"\bamused\b", named, re.IGNORECASE):
        raise ConfigError(
            f"family: expected amused for {opened.origin}, whose pixels are in [0, 1] inside the "
            "network, found diffusers; use --from amused"
        )


def _prefix(opened: Source, prefix: str | None, where: str) -> str:
    """Return the beginning of the names of the tokenizer's tensors."""
    if prefix is not None:
        if f"{prefix}{vqgan.FIRST}" not in opened.shapes:
            raise ConfigError(
                f"prefix: expected the beginning of the names of a tokenizer in {where}, such as "
                f"{shown(_prefixes(opened)[0]) if _prefixes(opened) else 'none'}, found {prefix!r}"
            )
        return prefix
    found = _prefixes(opened)
    if len(found) > 1:
        raise ConfigError(
            f"{where}: expected one tokenizer, found {len(found)}, with names that begin with "
            f"{one_line(', '.join(found[:5]), 200)}; choose one with prefix (--prefix)"
        )
    if not found:
        there = one_line(", ".join(sorted(opened.shapes)[:4]), 200)
        raise InputError(
            f"{where}: expected {vqgan.FIRST} among {counted(len(opened.shapes), 'tensor')}, found "
            f"{there}, ...; is it a tokenizer of this family, and its file of weights?"
        )
    return found[0]


def _prefixes(opened: Source) -> list[str]:
    return sorted(
        name.removesuffix(vqgan.FIRST)
        for name in opened.shapes
        if f".{name}".endswith(f".{vqgan.FIRST}")
    )


def _named_from(
    shapes: Mapping[str, tuple[int, ...]], prefix: str, family: Family
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tokenizer's tensors by their names after the prefix."""
    inner = {name.removeprefix(prefix): s for name, s in shapes.items() if name.startswith(prefix)}
    return {name: s for name, s in inner.items() if not name.startswith(family.unused)}


def _skeleton(architecture: dict[str, Any], where: str) -> Tokenizer:
    try:
        model = build_skeleton(architecture, where)
    except ArtifactError as error:
        raise InputError(f"{error}; it is not of this family, or of another size") from None
    assert isinstance(model, Tokenizer)
    return model


def _check_names(
    family: Family,
    tokenizer: Tokenizer,
    wanted: Mapping[str, str],
    canonical: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> None:
    """Raise InputError unless the tensors are those of the network, by names and shapes."""
    missing = sorted({*wanted.values()} - canonical.keys())
    extra = sorted(canonical[name] for name in canonical.keys() - {*wanted.values()})
    if missing or extra:
        parts = [
            f"{counted(len(names), 'tensor')} {what} ({', '.join(names[:3])})"
            for what, names in (("missing", missing), ("too many", extra))
            if names
        ]
        raise InputError(
            f"{where}: its tensors are not those of this family: "
            f"{one_line('; '.join(parts), 400)}; the file is another model's or was changed "
            f"(families with such names: {families_like(family)})"
        )
    for name, tensor in tokenizer.state_dict().items():
        own = canonical[wanted[name]]
        if not is_same_shape(tensor, shapes[own]):
            raise InputError(
                f"{where}: {own}: expected shape {tuple(tensor.shape)}, found {shapes[own]}"
            )


def _read(opened: Source, name: str, like: Tensor) -> Tensor:
    """Read a tensor in the shape and precision of ours, in memory of its own."""
    tensor = opened.tensor(name)
    kinds = _PRECISIONS if like.is_floating_point() else (like.dtype,)
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in kinds:
        found = f"{tensor.dtype}, {tensor.layout}{', without content' * tensor.is_meta}"
        raise InputError(
            f"{opened.origin}: {name}: expected numbers of {' or '.join(map(str, kinds))}, "
            f"found {found}"
        )
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InputError(
            f"{opened.origin}: {name}: expected {tensor.numel():,} numbers of its own, found a "
            "tensor that repeats fewer; the file is not one of trained weights"
        )
    read = torch.empty(like.shape, dtype=like.dtype).copy_(tensor.reshape(like.shape))
    if not bool(read.isfinite().all()):
        raise InputError(
            f"{opened.origin}: {name}: expected finite weights, found NaN or infinity, as float32; "
            "the file is damaged or of a run that had diverged; take another checkpoint"
        )
    return read


def _about(family: Family, opened: Source, tensors: int, prefix: str) -> str:
    """Return what was converted, for the model card."""
    (container,) = {checkpoint.container for checkpoint in opened.checkpoints}
    parts = [counted(tensors, "tensor")]
    parts += [f"of `{container}`"] if container else []
    parts += [f"whose names begin with {_literal(prefix)}"] if prefix else []
    hashes = ", ".join(f"{_literal(c.path.name)} {c.sha256()}" for c in opened.checkpoints)
    return (
        f"Converted by `imagetok convert` from {family.title}: {_literal(opened.origin)}, "
        f"{' '.join(parts)}, as float32. sha256: {hashes}."
    )


def _literal(text: str) -> str:
    """Return a foreign name as code that it cannot end."""
    return f"`{plain(one_line(text)).replace('`', '�')}`"


def _remarks(family: Family, *, is_stated: bool) -> tuple[str, ...]:
    """Return what differs from the origin's class, and what was assumed.

    is_stated: whether a config.json states the family's setting.
    """
    remarks = [family.assumed] if family.assumed else []
    key, usual, what = family.setting
    if key and not is_stated:
        remarks.append(
            f"No config.json beside the weights states `{key}`, so {usual} is assumed as the "
            f"number of {what}."
        )
    if family.distance == "cosine":
        remarks.append(
            "Features and codes are brought to unit length before they are compared, as in the "
            f"code of its authors{family.unlike}."
        )
    if family.encode_only:
        remarks.append("It only encodes: its class has no decoder, so codes cannot become images.")
    return tuple(remarks)
