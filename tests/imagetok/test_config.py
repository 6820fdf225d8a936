from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from imagetok.config import (
    Section,
    apply_overrides,
    differences,
    differences_shown,
    dump_yaml,
    load_config,
    override_texts,
    parse_yaml,
    validate,
)
from imagetok.errors import ConfigError
from imagetok.networks import VQGANConfig
from imagetok.training.config import TokenizerRun


class Fixed(Section):
    kind: Literal["fixed"] = "fixed"
    value: float = 1.0


class Fading(Section):
    kind: Literal["fading"] = "fading"
    start: float
    steps: int


class Inner(Section):
    rate: float = 0.1
    name: str = "a"
    schedule: Annotated[Fixed | Fading, Field(discriminator="kind")] = Fixed()


class Tree(Section):
    seed: int = 0
    inner: Inner = Inner()
    betas: tuple[float, ...] = ()
    notes: dict[str, str] = Field(default_factory=dict)


FULL = "seed: 3\ninner:\n  rate: 1e-4\n  schedule: {kind: fading, start: 2, steps: 7}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(FULL)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("12", 12),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("'1e-4'", "1e-4"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}", "here")["key"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1", "found 'a' twice"),
        ("a:\n  b: 1\n  b: 2", "f.yaml:3:3", "found 'b' twice"),
        ("a: &x 1", "f.yaml:1:4", "anchors"),
        ("a: 1\nb: *x", "f.yaml:2:4", "aliases"),
        ("a: &x [*x]", "f.yaml:1:4", "anchors"),
        ("a: !!python/object/apply:os.getcwd []", "f.yaml:1:4", "tags"),
        ("a: !!str 1", "f.yaml:1:4", "tags"),
        ("a: !!set {b}", "f.yaml:1:4", "tags"),
        ("a: !mine 1", "f.yaml:1:4", "tags"),
        ("? [1, 2]\n: 3", "f.yaml:1:3", "expected a word as key"),
        ("a: [1, 2", "f.yaml:1:9", "expected ',' or ']'"),
        ("a: 1\n--- \nb: 2", "f.yaml:2:1", "another document"),
        ("a: 1\n\tb: 2", "f.yaml:2:1", "\\t"),
        (f"a: {'9' * 5000}", "f.yaml", "digits"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_place(text: str, place: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    message = str(caught.value)
    assert message.startswith(f"{place}: not valid YAML: ") and says in message


def test_a_merge_key_is_a_word_and_merges_nothing() -> None:
    assert parse_yaml("<<: {a: 1}", "here") == {"<<": {"a": 1}}


def test_deep_nesting_is_refused_without_a_crash() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("[" * 100_000, "here")


def test_a_file_becomes_the_typed_tree(file: Path) -> None:
    assert load_config(file, Tree) == Tree(
        seed=3, inner=Inner(rate=1e-4, schedule=Fading(start=2.0, steps=7))
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inner: {rat: 1}", "inner.rat: unknown key; did you mean 'rate'?"),
        ("zzzz: 1", "zzzz: unknown key; known here: betas, inner, notes, seed"),
        (
            "inner: {schedule: {kind: fixed, valeu: 1}}",
            "inner.schedule.valeu: unknown key; did you mean 'value'?",
        ),
        (
            "inner: {schedule: {kind: fadding}}",
            "inner.schedule.kind: expected one of 'fixed', 'fading'; found 'fadding'",
        ),
        (
            "inner: {schedule: {value: 1}}",
            "inner.schedule.kind: expected one of 'fixed', 'fading'; found 'nothing'",
        ),
        ("inner: {schedule: {kind: fading, start: 1}}", "inner.schedule.steps: missing"),
        ("inner: {rate: fast}", "inner.rate: Input should be a valid number"),
        ("inner: {rate: .nan}", "inner.rate: Input should be a finite number (found nan)"),
        ("inner: {rate: .inf}", "inner.rate: Input should be a finite number (found inf)"),
        ("betas: [1, .nan]", "betas.1: Input should be a finite number (found nan)"),
        ("seed: 1.5", "seed: Input should be a valid integer"),
        ("inner: {name: 5}", "inner.name: Input should be a valid string (found 5)"),
        ("[1, 2]", "expected a mapping of sections, found list"),
        ("", "expected a mapping of sections, found NoneType"),
    ],
)
def test_faults_are_named_by_file_and_key(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, Tree)
    assert str(caught.value).startswith(f"{file}: {says}")


def test_every_fault_gets_a_line(file: Path) -> None:
    file.write_text("sed: 1\ninner: {rate: x}")
    with pytest.raises(ConfigError) as caught:
        load_config(file, Tree)
    assert len(str(caught.value).splitlines()) == 2


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot read the config: No such file"):
        load_config(tmp_path / "missing.yaml", Tree)
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path, Tree)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        load_config(binary, Tree)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="too large"):
        load_config(large, Tree)


def test_sections_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Tree().seed = 1


def test_an_override_sets_a_value_and_keeps_the_rest(file: Path) -> None:
    changed = load_config(file, Tree, ["inner.rate=3.0e-4", "seed=5", "inner.name='7'"])
    plain = load_config(file, Tree)
    assert changed.inner.schedule == plain.inner.schedule
    assert differences(plain.model_dump(), changed.model_dump()) == {
        "seed": (3, 5),
        "inner.rate": (1e-4, 3e-4),
        "inner.name": ("a", "7"),
    }


def test_an_override_with_a_mapping_replaces_the_whole_section(file: Path) -> None:
    changed = load_config(file, Tree, ["inner.schedule={kind: fixed, value: 4}"])
    assert changed.inner.schedule == Fixed(value=4.0)


def test_the_last_override_wins_and_the_tree_is_not_touched() -> None:
    tree: dict[str, Any] = {"a": {"b": 1}}
    assert apply_overrides(tree, ["a.b=2", "a.b=3", "c.d=x"]) == {"a": {"b": 3}, "c": {"d": "x"}}
    assert tree == {"a": {"b": 1}}


def test_a_number_in_the_key_is_a_place_in_a_list() -> None:
    tree: dict[str, Any] = {"a": {"b": [{"c": 1}, {"c": 2}], "d": [1, [2, 3]]}}
    changed = apply_overrides(tree, ["a.b.1.c=5", "a.b.0={e: 6}", "a.d.1.0=7"])
    assert changed == {"a": {"b": [{"e": 6}, {"c": 5}], "d": [1, [7, 3]]}}
    assert tree == {"a": {"b": [{"c": 1}, {"c": 2}], "d": [1, [2, 3]]}}
    shipped = Path(__file__).parents[2] / "configs" / "shapes" / "vqvae2.yaml"
    plain, smaller = (
        load_config(shipped, TokenizerRun, sets)
        for sets in ([], ["tokenizer.quantizers.0.num_codes=64"])
    )
    found = [level.num_codes for level in smaller.tokenizer.quantizers]
    assert found == [64, plain.tokenizer.quantizers[1].num_codes] and found[1] != 64


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("2.c=1", r"items is a list of length 2: expected an index from 0 to 1, found '2'"),
        ("-1.c=1", "expected an index from 0 to 1, found '-1'"),
        ("00=1", "expected an index from 0 to 1, found '00'"),
        ("one.c=1", r"found 'one'; to set the whole list use items=\[\.\.\.\]"),
        (f"{'9' * 5000}=1", "expected an index from 0 to 1"),
        ("1.c.d=1", r"expected items.1.c to be a section, found the value 2"),
        ("0.e.0=1", "items.0.e is a list of length 0: expected no index"),
    ],
)
def test_places_that_a_list_does_not_have_are_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        apply_overrides({"items": [{"c": 1, "e": []}, {"c": 2}]}, [f"items.{override}"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed.x=1", r"expected seed to be a section, found the value 3"),
        ("seed", r"expected section\.key=value"),
        ("=1", r"expected section\.key=value"),
        ("inner..rate=1", r"expected section\.key=value"),
        ("inner.rate=[1", "not valid YAML"),
        ("inner.rat=1", "inner.rat: unknown key; did you mean 'rate'"),
        ("inner.rate=fast", "inner.rate: Input should be a valid number"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(file: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(file, Tree, [override])


@given(
    st.builds(
        Tree,
        seed=st.integers(),
        inner=st.builds(
            Inner,
            rate=st.floats(allow_nan=False, allow_infinity=False),
            name=st.text() | st.sampled_from(["1e5", "no", "010", "0x1", "1.", ".5e-3", "null"]),
            schedule=st.builds(Fixed) | st.builds(Fading, start=st.just(1e-7), steps=st.just(2)),
        ),
        betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
        notes=st.dictionaries(st.sampled_from(["1e5", "no", "a b", "~x"]), st.text()),
    )
)
def test_a_dumped_tree_is_read_back_equal(tree: Tree) -> None:
    assert validate(parse_yaml(dump_yaml(tree), "dumped"), Tree, "dumped") == tree


def test_a_tokenizer_run_is_read_back_equal(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "configs" / "digits" / "edvae.yaml"
    run = load_config(shipped, TokenizerRun, ["train.mixed_precision=no"])
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_yaml(run))
    assert load_config(copy, TokenizerRun) == run


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "objective.weights={commitment: {kind: constant, value: 1}}",
            r"\['kl'\], found \['commitment'\]",
        ),
        (
            "train.accumulation=999983",
            r"train: batch_size: .* a multiple of accumulation \(999983\)",
        ),
        ("tokenizer.image.height=18", "must be multiples of 4"),
        ("tokenizer.network={kind: conv, kernel_size: 2}", "kernel_size must be odd"),
        ("tokenizer.network={kind: conv, width: 6}", "width must be a multiple of 4"),
        ("tokenizer.quantizer.kind=wavelet", "tokenizer.quantizer.kind: expected one of 'edvae'"),
        ("tokenizer.quantizer.num_codes=0", "tokenizer.quantizer.num_codes: Input should be gre"),
    ],
)
def test_a_tokenizer_run_that_cannot_work_is_refused(override: str, says: str) -> None:
    shipped = Path(__file__).parents[2] / "configs" / "digits" / "edvae.yaml"
    with pytest.raises(ConfigError, match=says):
        load_config(shipped, TokenizerRun, [override])


def test_overrides_as_a_dict_are_those_of_the_command_line():
    section = {"kind": "x", "e": [1, "2"]}
    values = {
        "a.b": 1e-4,
        "c": "no",
        "d": section,
        "f": None,
        "g": Path("h/i"),
    }
    tree = apply_overrides({"a": {"z": 1}}, values)
    assert tree == {
        "a": {"z": 1, "b": 1e-4},
        "c": "no",
        "d": section,
        "f": None,
        "g": "h/i",
    }
    assert apply_overrides({"a": {"z": 1}}, override_texts(values)) == tree
    with pytest.raises(ConfigError, match="expected a list or a dict"):
        override_texts("a=1")


def test_an_override_may_hold_one_object_twice():
    level = {"kind": "vqvae-ema", "reset": {"kind": "none"}}
    (text,) = override_texts({"levels": [level, level]})
    assert apply_overrides({"levels": []}, [text]) == {"levels": [level, level]}


def test_a_difference_shows_a_key_at_its_default_as_a_config_has_it():
    there, here = VQGANConfig(encode_only=True, attention=(1,)), VQGANConfig()
    assert differences_shown(there, here) == (
        "attention: [1] there, null here; encode_only: true there, false here"
    )
    assert "encode_only" not in here.model_dump() and here.whole()["encode_only"] is False
