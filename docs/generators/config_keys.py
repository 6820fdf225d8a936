"""Write docs/reference/config-keys.md, every key of a config, from the typed tree.

    python docs/generators/config_keys.py

A key's meaning is the string below its field.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from imagetok.config import Section
from imagetok.plugins.registry import OwnSection
from imagetok.quantizers.code_probabilities import penalty_names
from imagetok.training.config import TokenizerRun
from imagetok.training.schedules import Constant
from prior.config import PriorRun

PAGE = Path(__file__).parent.parent / "reference" / "config-keys.md"
SHARED = {
    "num_codes": "K, the number of codes.",
    "code_dim": "D, the dimensions of a code.",
    "test_rule": "The code at test time: the most probable, or one drawn from the probabilities.",
    "init": "Where codes start: noise (`uniform`: U(-1/K, 1/K), `normal`: N(0, 1), "
    "`small-normal`: N(0, 0.02^2)), encoder outputs of the first batch (`data`), or the centres "
    "that `kmeans` finds in them.",
    "reset": "When codes that are not used are replaced, and by what.",
}
"""Meanings of keys that many quantizers have, unless a field says more."""
GRID = """## How the grid of codes follows from the network

An image of H x W pixels has (H / f) x (W / f) codes, where f is the downsampling factor of the
network:

| network | f | |
|---|---|---|
| `conv` | 2^(`groups` - 1) | `groups: 3` gives 4 |
| `sonnet` | 2^`halvings` | `halvings: 2` gives 4 |
| `sqvae`, `kaokore` | 4 | `sqvae` with `form: net_64_label`: 8 |
| `vqgan` | 2^(levels - 1), of which `multipliers` has one number each | the default five give 16 |
| `vqvae2` | 4 for the finest level, doubled at each coarser level | two levels: 8 and 4 |

H and W must be multiples of f. For 16 x 16 codes from 256 x 256 pixels, f is 16: `conv` with five
groups, or `sonnet` with four halvings:

```yaml
image: {height: 256, width: 256}
network: {kind: conv, width: 32, groups: 5}
quantizer: {kind: edvae, num_codes: 1024, code_dim: 16}
```

`imagetok inspect` shows the grid of a tokenizer.
"""
HEAD = f"""# Config keys

Every key of a config file, written from the types that configs are checked by
(`python docs/generators/config_keys.py`). A key without a default is required. `--set a.b=value`
changes one key. A section that changes its `kind` is given as a whole:
`--set "tokenizer.quantizer={{kind: dvae}}"`. The [named configs](configs.md) are complete examples
to start from.

{GRID}"""
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}


@cache
def meanings(section: type[BaseModel]) -> dict[str, str]:
    """The strings below the fields of a class and of those that it is made of."""
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if not (issubclass(cls, Section) and cls is not Section):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=v)):
                    found[name] = " ".join(str(v).split())
    return found


def meaning(section: type[BaseModel], key: str) -> str:
    """What a key means; empty where nobody says."""
    tag = {"kind": "Selects one of these.", "source": "Selects one of these."}
    is_tag = get_origin(section.model_fields[key].annotation) is Literal
    return meanings(section).get(key) or (tag.get(key, "") if is_tag else "") or SHARED.get(key, "")


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a value may be or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if _is_own(annotation) else [annotation]
    return [s for argument in get_args(annotation) for s in sections_in(argument)]


def _is_own(annotation: Any) -> bool:
    """Whether it stands for sections that plugins register, which are not listed."""
    return isinstance(annotation, type) and issubclass(annotation, OwnSection)


def type_text(annotation: Any, metadata: Any = ()) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, UnionType):
        plain = [a for a in arguments if a is not NoneType and not _is_own(a)]
        texts = list(dict.fromkeys(type_text(a, metadata) for a in plain))
        return " or ".join([*texts, *(["null"] if NoneType in arguments else [])])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        inner = [a for a in arguments if a is not Ellipsis]
        count = "" if Ellipsis in arguments else f"{len(inner)} "
        return f"list of {count}{type_text(inner[0])}"
    if origin is dict:
        return f"section of name: {type_text(arguments[1])}"
    if sections := sections_in(annotation):
        return "section or number" if Constant in sections else "section"
    names = {int: "integer", float: "number", str: "text", bool: "true, false"}
    return " ".join([names[annotation], *_bounds(metadata)])


def _bounds(metadata: Any) -> Iterator[str]:
    for one in metadata:
        for part in getattr(one, "metadata", [one]):
            for name, sign in BOUNDS.items():
                if getattr(part, name, None) is not None:
                    yield f"{sign} {getattr(part, name)}"


def default_text(field: FieldInfo) -> str:
    """A default as YAML has it."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        tag = getattr(value, "kind", "")
        return f"`{{kind: {tag}}}`" if tag else "`{}`"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return (
        f"`{value:.6g}`" if isinstance(value, float) else f"`{value!s}`" if value != "" else '`""`'
    )


class Page:
    """The page as it is written: each choice of sections once, where it first occurs."""

    def __init__(self):
        self.lines: list[str] = []
        self.seen: dict[tuple[type[BaseModel], ...], str] = {}

    def write(self, path: str, choice: tuple[type[BaseModel], ...]) -> None:
        """A heading, the table of each section that may stand there, and what is in them."""
        self.seen[choice] = path
        self.lines += [f"## `{path}`", ""]
        inside: dict[str, tuple[type[BaseModel], ...]] = {}
        for section in choice:
            self._write_one(path, section, len(choice) > 1, inside)
        for key, sections in inside.items():
            if sections not in self.seen:
                self.write(key, sections)

    def _write_one(
        self,
        path: str,
        section: type[BaseModel],
        is_choice: bool,
        inside: dict[str, tuple[type[BaseModel], ...]],
    ) -> None:
        tag = next((n for n in ("kind", "source") if n in section.model_fields), None)
        if is_choice and tag is not None:
            self.lines += [f"### `{tag}: {section.model_fields[tag].default}`", ""]
        self.lines += [inspect.cleandoc(section.__doc__ or ""), ""]
        losses = getattr(section.model_construct(), "losses", None)
        if isinstance(losses, tuple) and "kind" in section.model_fields:
            named = f"{_listed(losses)}{_with_penalty(section)}"
            self.lines += [f"Losses that `objective.weights` names: {named}.", ""]
        rows = [
            f"| `{key}` | {self._type(path, key, field, inside)} | {default_text(field)} | "
            + meaning(section, key).replace("|", "\\|")
            + " |"
            for key, field in section.model_fields.items()
            if not (is_choice and key == tag)
        ]
        if rows:
            self.lines += ["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]

    def _type(
        self,
        path: str,
        key: str,
        field: FieldInfo,
        inside: dict[str, tuple[type[BaseModel], ...]],
    ) -> str:
        text = type_text(field.annotation, field.metadata)
        sections = tuple(sections_in(field.annotation))
        if not sections:
            return text
        start = path.partition(" ")[0] if path.startswith("kind:") else f"{path}."
        name = key if path.startswith("kind:") else f"{start}{key}"
        if get_origin(field.annotation) is dict:
            name += ".NAME"
        if path.startswith("kind: prior"):
            name = f"{name} of a prior"
        waiting = {found: name for name, found in inside.items()}
        wider = [place for known, place in self.seen.items() if {*sections} < {*known}]
        place = self.seen.get(sections) or waiting.get(sections) or (wider or [name])[0]
        if wider:
            return f"{text}: [{place}](#{anchor(place)}), without those of several levels"
        inside[place] = sections
        return f"{text}: [{place}](#{anchor(place)})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _with_penalty(section: type[BaseModel]) -> str:
    """What is added to the losses of a quantizer that may have an entropy penalty."""
    if "entropy_temperature" not in section.model_fields:
        return ""
    names = _listed(penalty_names(1.0))
    default = section.model_fields["entropy_temperature"].default
    return f"; with `entropy_temperature` also {names}" if default is None else ""


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def page() -> str:
    """The text of the page."""
    written = Page()
    written.write("kind: tokenizer", (TokenizerRun,))
    written.write("kind: prior", (PriorRun,))
    return "\n".join([HEAD, *written.lines]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
