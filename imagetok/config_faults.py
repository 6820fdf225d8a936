"""Messages for what is wrong in a config: one line per fault, with the key and a remedy."""

import re
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from imagetok.suggestions import did_you_mean, nearest, shown


def describe_faults(error: ValidationError, cls: type[BaseModel]) -> list[str]:
    """Return a line per fault: `a.b: what is wrong (found x)`. cls: the type of the config."""
    of_another_kind, others = _keys_of_another_kind(error.errors(include_url=False), cls)
    return [*of_another_kind, *(_describe(fault, cls) for fault in others)]


def _keys_of_another_kind(
    faults: list[ErrorDetails], cls: type[BaseModel]
) -> tuple[list[str], list[ErrorDetails]]:
    """Describe several unknown keys of one section as what they are: those of another kind.

    They stay behind if `kind` or `source` alone is changed. Returns a line per such section, and
    the other faults.
    """
    unknown: dict[str, list[tuple[str, ErrorDetails]]] = {}
    owner_of: dict[str, type[BaseModel]] = {}
    rest: list[ErrorDetails] = []
    for fault in faults:
        names, owners, _ = _walk(fault["loc"], cls)
        is_unknown = fault["type"] == "extra_forbidden" and len(names) > 1 and len(owners) == 1
        if not is_unknown or _tag_name(owners[0]) is None:
            rest.append(fault)
            continue
        section = ".".join(map(_key_shown, names[:-1]))
        unknown.setdefault(section, []).append((names[-1], fault))
        owner_of[section] = owners[0]
    lines = []
    for section, found in unknown.items():
        if len(found) == 1:  # a misspelt key
            rest.append(found[0][1])
            continue
        names = ", ".join(_key_shown(name) for name, _ in found)
        known = ", ".join(owner_of[section].model_fields)
        lines.append(
            f"{section}: unknown keys {names}; known here: {known}; to change the "
            f"{_tag_name(owner_of[section])}, set the whole section: "
            f"--set '{section}={_section_example(owner_of[section])}'"
        )
    return lines, rest


def _tag_name(section: type[BaseModel]) -> str | None:
    """Return the name of the key that says which of several sections one is."""
    return next((name for name in ("kind", "source") if _tags_of(section, name)), None)


def _section_example(section: type[BaseModel]) -> str:
    """Return a section in YAML: its tag, and `...` for each key without a default."""
    tag = _tag_name(section)
    values = {} if tag is None else {tag: str(_tags_of(section, tag)[0])}
    for name, field in section.model_fields.items():
        if field.is_required():
            values.setdefault(name, "...")
    return f"{{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"


def _tags_of(section: type[BaseModel], field: str) -> tuple[Any, ...]:
    return _tags(section, field) if field in section.model_fields else ()


def _section_expected(key: str, found: object, inside: list[type[BaseModel]]) -> str:
    """Describe a value that stands where a section is expected."""
    tag = next((name for name in map(_tag_name, inside) if name), None)
    tags = [str(value) for section in inside for value in _tags_of(section, tag or "")]
    if tag and isinstance(found, str) and found in tags:
        (section,) = (s for s in inside if found in _tags_of(s, tag))
        hint = f"set the whole section: --set '{key}={_section_example(section)}'"
    elif tag:
        known = ", ".join(tags)
        hint = f"set the whole section: --set '{key}={{{tag}: ...}}', {tag} one of {known}"
    else:
        names = (name for section in inside for name in section.model_fields)
        known = ", ".join(dict.fromkeys(names))
        hint = f"set its keys one by one, as in --set {key}.KEY=VALUE, KEY one of {known}"
    return f"{key}: expected a section, found the value {shown(found)}; {hint}"


def _describe(fault: ErrorDetails, cls: type[BaseModel]) -> str:
    names, owners, inside = _walk(fault["loc"], cls)
    key = ".".join(map(_key_shown, names))
    match fault["type"]:
        case "extra_forbidden":
            known = sorted({name for owner in owners for name in owner.model_fields})
            near = nearest(names[-1], known)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            tag = next((name for name in ("kind", "source") if name in known), None)
            if tag and len(names) > 1 and not near:
                section = ".".join(map(_key_shown, names[:-1]))
                hint += f"; to change the {tag}, set the whole section: {section}={{{tag}: ...}}"
            return f"{key}: unknown key; {hint}"
        case "missing":
            return f"{key}: missing"
        case "union_tag_invalid" | "union_tag_not_found":
            context = fault.get("ctx", {})
            discriminator = str(context.get("discriminator", "kind")).strip("'")
            found = shown(context.get("tag", "nothing"))
            tags = (tag for section in inside for tag in _tags(section, discriminator))
            known = _quoted(context.get("expected_tags")) or [str(tag) for tag in tags]
            hint = did_you_mean(context.get("tag", ""), known)
            return (
                f"{key}.{discriminator}: expected one of {', '.join(map(repr, known))}; "
                f"found {found}{hint}"
            )
        case "model_type" | "model_attributes_type" | "dict_type" if key and inside:
            return _section_expected(key, fault["input"], inside)
        case "unknown_part":
            return f"{key}.{fault.get('ctx', {})['tag']}: {fault['msg']}"
        case "literal_error" | "enum" if isinstance(fault["input"], str):
            hint = did_you_mean(fault["input"], _quoted(fault.get("ctx", {}).get("expected")))
            return f"{key}: {fault['msg']} (found {shown(fault['input'])}{hint})"
        case "value_error":
            message = fault["msg"].removeprefix("Value error, ")
            return f"{key}: {message}" if key else message
        case _:
            return f"{key}: {fault['msg']} (found {shown(fault['input'])})"


def _key_shown(name: str) -> str:
    """Return a key for a message: as it is if it is short and printable, else as a value."""
    return name if len(name) <= 80 and name.isprintable() else shown(name)


def _quoted(text: object) -> list[str]:
    """Return the quoted words in pydantic's text of expected values."""
    return re.findall(r"'([^']*)'", str(text))


def _walk(
    location: tuple[str | int, ...], cls: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]], list[type[BaseModel]]]:
    """Resolve the location of a pydantic error.

    Returns its names without pydantic's union tags, the sections that own the last name, and the
    sections that its value may be.
    """
    names: list[str] = []
    inside: list[type[BaseModel]] = [cls]
    owners = inside
    for part in location:
        fields = [s.model_fields[part] for s in inside if part in s.model_fields]
        tagged = [s for s in inside if any(part in _tags(s, name) for name in s.model_fields)]
        if tagged and not fields:
            inside = tagged
            continue
        names.append(str(part))
        owners = inside
        if fields:  # otherwise a key or index in a container of the sections in `inside`
            inside = [model for field in fields for model in _models(field.annotation)]
    return names, owners, inside


def _tags(section: type[BaseModel], field: str) -> tuple[Any, ...]:
    """Return the values that a discriminator field allows; empty if it is not a Literal."""
    annotation = section.model_fields[field].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        alternatives = getattr(annotation, "alternatives", None)  # of a section
        return [annotation] if alternatives is None else list(alternatives())
    return [model for argument in get_args(annotation) for model in _models(argument)]
