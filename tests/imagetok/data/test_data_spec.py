"""The one-line form of a data source: what it says, what it refuses, and back again."""

import pytest
from hypothesis import given, settings
from hypothesis.strategies import booleans, floats, integers, one_of, sampled_from, text

from imagetok.config import Section
from imagetok.data import (
    CelebAConfig,
    CIFAR10Config,
    DataConfig,
    DigitsConfig,
    FolderConfig,
    HuggingFaceConfig,
    KaokoreConfig,
    LSUNConfig,
    MNISTConfig,
    ShapesConfig,
    TableConfig,
    WebDatasetConfig,
    describe,
    parse_spec,
)
from imagetok.errors import ConfigError

WORDS = text(min_size=1, max_size=12)


class Tree(Section):
    data: DataConfig


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("digits", (DigitsConfig(), "train")),
        ("digits:test", (DigitsConfig(), "test")),
        ("cifar10:train,root=/data", (CIFAR10Config(root="/data"), "train")),
        ("mnist:all,download=true", (MNISTConfig(download=True), "all")),
        ("shapes:train,count=2000", (ShapesConfig(count=2000), "train")),
        ("shapes,seed=3,test_count=5", (ShapesConfig(seed=3, test_count=5), "train")),
        ("folder:all,root=photos", (FolderConfig(root="photos"), "all")),
        ("folder,root=photos", (FolderConfig(root="photos"), "all")),
        (r"folder:test,root=a\,b", (FolderConfig(root="a,b"), "test")),
        ("table,file=x.csv,label=", (TableConfig(file="x.csv", label=""), "all")),
        ("table:val,file=x,splits=set", (TableConfig(file="x", splits="set"), "val")),
        ("some/x.csv", (TableConfig(file="some/x.csv"), "all")),
        ("x, y.jsonl", (TableConfig(file="x, y.jsonl"), "all")),
        (r"webdataset:test,shards={a\,b}.tar", (WebDatasetConfig(shards="{a,b}.tar"), "test")),
        ("x-{00..09}.tar", (WebDatasetConfig(shards="x-{00..09}.tar"), "all")),
        ("https://host/{a,b}.tar", (WebDatasetConfig(shards="https://host/{a,b}.tar"), "all")),
        ("huggingface,name=user/x@v1", (HuggingFaceConfig(name="user/x@v1"), "train")),
        ("celeba:val", (CelebAConfig(), "val")),
        ("lsun:test,root=/data", (LSUNConfig(root="/data"), "test")),
        ("kaokore,label=status", (KaokoreConfig(label="status"), "train")),
        ("some/photos", (FolderConfig(root="some/photos"), "all")),
        ("./digits", (FolderConfig(root="./digits"), "all")),
        ("/odd, name=x", (FolderConfig(root="/odd, name=x"), "all")),
        (".", (FolderConfig(root="."), "all")),
    ],
)
def test_a_spec_says_what_it_says(spec, expected):
    assert parse_spec(spec) == expected


def test_the_name_of_a_folder_that_exists_is_a_spec(tmp_path, monkeypatch):
    (tmp_path / "photos, 2024").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_spec("photos, 2024") == (FolderConfig(root="photos, 2024"), "all")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("digitz", r"data 'digitz': expected one of digits, .*did you mean 'digits'\?"),
        ("cifar01:train,root=/data", r"found 'cifar01'; did you mean 'cifar10'\?"),
        ("", r"expected one of digits, .*found ''"),
        ("shapes,cuont=3", r"data 'shapes,cuont=3': cuont: unknown key; did you mean 'count'\?"),
        ("shapes,count=many", r"count: .*\(found 'many'\)"),
        ("shapes,count=0", r"count: .*greater than 0 \(found '0'\)"),
        ("shapes,3", r"expected key=value after a comma, found '3'"),
        ("shapes,seed=1,seed=2", r"expected seed once, found it again in 'seed=2'"),
        ("shapes,source=digits", r"expected source once"),
        ("digits:tain", r"train, test, all; found 'tain'; did you mean 'train'\?"),
        ("digits:", r"found ''"),
        ("folder:all", r"root: missing"),
        ("digits:val", "train, test, all; found 'val'"),
        ("kaokore,label=age", "label: .*'gender' or 'status'"),
        ("folder,root=x,holdout=1", r"holdout: .*less than 1"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_nearest_name(spec, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_spec(spec)
    assert caught.value.exit_code == 2


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    config=one_of(
        sampled_from([DigitsConfig(), CIFAR10Config()]),
        integers(1, 2**24).map(lambda n: ShapesConfig(count=n, test_count=n, seed=n)),
        WORDS.map(lambda root: MNISTConfig(root=root, download=True)),
        integers(0, 2**24).map(lambda n: CIFAR10Config(validation=n)),
        WORDS.map(lambda root: FolderConfig(root=root, holdout=0.25)),
        WORDS.map(lambda word: TableConfig(file=word, label="", splits=word)),
        WORDS.map(lambda word: WebDatasetConfig(shards=word, test=word)),
        floats(0, 1, exclude_min=True, exclude_max=True).map(
            lambda share: FolderConfig(root="x", holdout=share)
        ),
    ),
    is_test=booleans(),
)
def test_describe_is_read_back_to_the_same(config, is_test):
    split = "test" if is_test else "all"
    assert parse_spec(describe(config, split)) == (config, split)


def test_describe_leaves_defaults_out():
    assert describe(DigitsConfig(), "train") == "digits:train"
    assert describe(CIFAR10Config(root="data"), "test") == "cifar10:test"
    assert "validation" not in CIFAR10Config().model_dump()
    assert CIFAR10Config(validation=5).model_dump()["validation"] == 5
    assert describe(*parse_spec("shapes:train,seed=0,count=7")) == "shapes:train,count=7"
    assert describe(*parse_spec("a/b")) == "folder:all,root=a/b"


def test_the_union_is_chosen_by_source():
    tree = Tree.model_validate({"data": {"source": "folder", "root": "x"}})
    assert tree.data == FolderConfig(root="x")
