"""What a misspelt name is taken for."""

from pathlib import Path

from imagetok.suggestions import all_of, are, counted, did_you_mean, nearest

ROOT = Path(__file__).parents[2]


def test_the_most_similar_name_comes_first():
    assert nearest("digits/edvea", ["digits/dvae", "digits/edvae", "digits/gpt"], count=2) == [
        "digits/edvae",
        "digits/dvae",
    ]


def test_case_and_kind_of_stroke_do_not_matter():
    assert nearest("VQVAE_EMA", ["vqvae-ema", "vqvae"]) == ["vqvae-ema"]
    assert nearest("num-codes", ["num_codes"]) == ["num_codes"]


def test_a_name_like_no_other_has_no_hint():
    assert did_you_mean("wavelet", ["edvae", "dvae"]) == ""
    assert did_you_mean(None, []) == ""


def test_the_hint_ends_a_sentence():
    assert did_you_mean("tain", ["train", "test"]) == "; did you mean 'train'?"
    assert did_you_mean(3, [30, "x"], count=2) == "; did you mean '30'?"


def test_there_is_one_place_that_compares_names():
    using = {
        path.relative_to(ROOT).as_posix()
        for package in ("imagetok", "prior", "cli")
        for path in (ROOT / package).rglob("*.py")
        if "difflib" in path.read_text()
    }
    assert using == {"imagetok/suggestions.py"}


def test_a_number_has_its_noun_in_the_singular_or_plural():
    nouns = ("image", "class", "batch", "copy", "key", "pass", "more key")
    assert [counted(1, noun) for noun in nouns] == [f"1 {noun}" for noun in nouns]
    several = ("images", "classes", "batches", "copies", "keys", "passes", "more keys")
    assert [counted(0, noun) for noun in nouns] == [f"0 {noun}" for noun in several]
    assert counted(1234, "row") == "1,234 rows"
    assert counted(2, "table or figure", "tables and figures") == "2 tables and figures"
    assert (are(1), are(0), are(2)) == ("is", "are", "are")
    assert (all_of(1, "map"), all_of(3, "map")) == ("the only map", "all 3 maps")
