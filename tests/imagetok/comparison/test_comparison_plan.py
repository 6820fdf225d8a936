from pathlib import Path

import pytest
import yaml

import imagetok
import prior
from cli.compare import MAY_DIFFER as OFFERED
from imagetok.comparison import make_plan
from imagetok.comparison.plan import MAY_DIFFER, ComparisonPlan, method_identity
from imagetok.config import read_yaml, validate
from imagetok.data import DigitsConfig, open_images
from imagetok.errors import ConfigError
from imagetok.images import ImageContract
from imagetok.pictures import save_grid
from imagetok.training.config import TokenizerRun

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
EDVAE, DVAE = DIGITS / "edvae.yaml", DIGITS / "dvae.yaml"


def changed(tmp_path: Path, **sections: dict) -> Path:
    """dvae.yaml with other settings, under another name."""
    tree = read_yaml(DVAE)
    for name, values in sections.items():
        tree[name] |= values
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_cell_for_every_method_and_seed(tmp_path):
    plan = make_plan([EDVAE, DVAE], [5, 7], ["train.steps=9"])
    trials = plan.trials(tmp_path)
    assert [(c.method, c.seed, c.steps) for c in trials] == [
        ("edvae", 5, 9), ("edvae", 7, 9), ("dvae", 5, 9), ("dvae", 7, 9)
    ]  # fmt: skip
    assert trials[1].folder == tmp_path / "edvae" / "seed-7"
    assert plan.different() == {}


def test_files_of_one_name_are_named_by_their_folder_and_none_is_given_twice(tmp_path):
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / "edvae.yaml"
    mine.write_bytes(EDVAE.read_bytes())
    assert list(make_plan([EDVAE, mine, DVAE]).methods) == ["digits-edvae", "mine-edvae", "dvae"]
    with pytest.raises(ConfigError, match="pass each config once"):
        make_plan([EDVAE, EDVAE])


@pytest.mark.parametrize(
    ("sections", "key", "leave"),
    [
        ({"train": {"steps": 7}}, "train.steps", "train.steps"),
        ({"train": {"batch_size": 16}}, "train.batch_size", "train.batch_size"),
        ({"tokenizer": {"network": {"kind": "sonnet", "width": 16}}}, "tokenizer.network.width",
         "tokenizer.network"),
    ],
)  # fmt: skip
def test_another_budget_or_network_is_refused_unless_allowed(tmp_path, sections, key, leave):
    other = changed(tmp_path, **sections)
    with pytest.raises(ConfigError, match=rf"(?s){key}: .*--allow-different {leave}"):
        make_plan([EDVAE, other])
    values = make_plan([EDVAE, other], allow_different=[leave]).different()[key]
    assert values[0] != values[1] and len(values) == 2


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"data": {"source": "shapes"}}, "data.source"),
        ({"tokenizer": {"image": {"mode": "grey", "height": 32, "width": 32}}},
         "tokenizer.image.height"),
    ],
)  # fmt: skip
def test_other_data_or_images_are_always_refused(tmp_path, sections, key):
    leave = ["tokenizer.network", "train.steps", "train.batch_size"]
    with pytest.raises(ConfigError, match=key):
        make_plan([EDVAE, changed(tmp_path, **sections)], allow_different=leave)


def test_folders_are_told_apart_by_what_they_hold(tmp_path):
    def config(root: Path, name: str) -> Path:
        tree = read_yaml(DVAE) | {"data": {"source": "folder", "root": str(root)}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        return tmp_path / f"{name}.yaml"

    contract = ImageContract(mode="grey", height=8, width=8)
    images = open_images(DigitsConfig(), "test", contract).read(range(6)).images
    for folder, count in (("a", 5), ("b", 5), ("c", 6)):
        for i in range(count):
            save_grid(images[i : i + 1], tmp_path / folder / f"{i}.png", columns=1)
    paths = {folder: config(tmp_path / folder, folder) for folder in "abc"}
    plan = make_plan([paths["a"], paths["b"]])
    assert str(tmp_path) not in str([method_identity(c) for c in plan.methods.values()])
    assert plan.data_name() == "folder:test"
    with pytest.raises(ConfigError, match=r"the images of .* differ"):
        make_plan([paths["a"], paths["c"]])


@pytest.mark.parametrize(
    ("seeds", "overrides", "message"),
    [
        ([1, 1], [], "different seeds"),
        ([1], ["seed=3"], "--seeds"),
        ([1], ["a=1"], "unknown key"),
        ([1], ["trained=decoder"], "every method from its start"),
    ],
)
def test_what_cannot_be_meant_is_refused(seeds, overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_plan([EDVAE], seeds, overrides)


def test_a_prior_is_refused():
    with pytest.raises(ConfigError, match="expected 'tokenizer', found 'prior'"):
        make_plan([DIGITS / "gpt.yaml"])


def test_a_folder_belongs_to_one_comparison(tmp_path):
    out = tmp_path / "out"
    with make_plan([EDVAE, DVAE], [1, 2]).hold(out):
        pass
    with make_plan([EDVAE, DVAE], [1, 2], ["train.workers=1"]).hold(out):
        pass  # no value changes by it
    for plan, key in [
        (make_plan([EDVAE, DVAE], [1, 3]), "seeds"),
        (make_plan([EDVAE], [1, 2]), "methods.dvae"),
        (make_plan([EDVAE, DVAE], [1, 2], ["train.steps=3"]), r"methods\.dvae\.train\.steps"),
    ]:
        with pytest.raises(ConfigError, match=key), plan.hold(out):
            pass
    (tmp_path / "full" / "mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not empty"), plan.hold(tmp_path / "full"):
        pass


def test_the_command_offers_the_keys_that_may_differ():
    assert OFFERED == MAY_DIFFER


def test_no_path_of_images_is_told_apart_or_told(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    table, tars, saved = (
        [str(tmp_path / n / kind) for n in "ab"] for kind in ("t.csv", "x.tar", "")
    )
    for sources, shown in [
        ([{"source": "table", "file": f} for f in table], "table:test"),
        ([{"source": "webdataset", "shards": f, "test": f} for f in tars], "webdataset:test"),
        ([{"source": "huggingface", "name": f} for f in saved], "huggingface:test"),
        ([{"source": "huggingface", "name": "user/set"}] * 2, "huggingface:test,name=user/set"),
    ]:
        configs = {
            name: validate(read_yaml(DVAE) | {"data": data}, TokenizerRun, name)
            for name, data in zip("ab", sources, strict=True)
        }
        plan = ComparisonPlan(seeds=(1,), methods=configs, train_identity="", test_identity="")
        assert str(tmp_path) not in str(plan.identity())
        assert method_identity(configs["a"]) == method_identity(configs["b"])
        assert plan.data_name() == shown


@pytest.mark.parametrize("place", ["https://me:secret@h/a.tar", "https://h/a.tar?sig=secret"])
def test_urls_with_secrets_are_refused_before_any_training(tmp_path, place):
    given = {"source": "webdataset", "shards": place}
    with pytest.raises(ConfigError, match=r"data\.shards: expected a URL without user") as refused:
        make_plan([changed(tmp_path, data=given), DVAE])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.precision=tf32", r"edvae: train\.precision: tf32 needs a GPU"),
        ("train.mixed_precision=fp16", r"edvae: train\.mixed_precision: fp16 needs a GPU"),
    ],
)
def test_a_precision_that_the_device_lacks_is_refused_before_any_training(
    tmp_path, override, message
):
    with pytest.raises(ConfigError, match=message):
        imagetok.compare([EDVAE, DVAE], tmp_path / "out", set=[override], device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_precision_of_the_prior_is_refused_before_the_tokenizers_are_trained(tmp_path):
    tree = read_yaml(DIGITS / "gpt.yaml")
    tree["train"]["precision"] = "tf32"
    path = tmp_path / "gpt.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"gpt\.yaml: train\.precision: tf32 needs a GPU"):
        prior.compare([EDVAE, DVAE], tmp_path / "out", prior=path, device="cpu")
    assert not (tmp_path / "out").exists()
