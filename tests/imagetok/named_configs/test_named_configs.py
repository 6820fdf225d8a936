"""Configs are found by name: a file first, then the name, wherever imagetok is installed."""

from pathlib import Path

import pytest

from imagetok import configs
from imagetok.errors import ConfigError
from imagetok.named_configs import Catalogue, NamedConfig, configs_folder, find_config, folder

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "given",
    [
        "digits/edvae",
        "digits/edvae.yaml",
        "configs/digits/edvae",
        "configs/digits/edvae.yaml",
        "./configs/digits/edvae.yaml",
        "/elsewhere/imagetok/configs/digits/edvae.yaml",
        Path("configs/digits/edvae.yaml"),
    ],
)
def test_a_name_may_look_like_the_file_of_a_checkout(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_config(given)
    assert found.name == found.where == "digits/edvae"
    assert found.path == ROOT / "configs" / "digits" / "edvae.yaml"
    assert found.taken() == f"config: digits/edvae, a named config ({found.path})"
    assert found.run_folder == Path("runs/digits-edvae")
    assert found.tree["kind"] == "tokenizer"


def test_a_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "edvae").write_text("kind: mine\n")
    found = find_config("digits/edvae")
    assert found.tree == {"kind": "mine"}
    assert found.taken() == "config: the file digits/edvae"
    assert found.where == "digits/edvae"
    mine = tmp_path / "folder" / "my.yaml"
    mine.parent.mkdir()
    mine.write_text("kind: mine\n")
    assert find_config(mine).run_folder == Path("runs/folder-my")


def test_a_file_of_ours_has_its_whole_name():
    found = find_config(ROOT / "configs" / "cifar10" / "comparison" / "gpt.yaml")
    assert found.name == "cifar10/comparison/gpt"
    assert found.is_given_file


def test_an_experiment_has_two_names():
    """That of the paper, and that of the file that it once had."""
    one = find_config("papers/edvae/cifar10/edvae-codes-128")
    other = find_config("configs/cifar10/edvae-paper/edvae-codes-128.yaml")
    assert one.tree == other.tree and one.text == other.text
    assert one.tree["tokenizer"]["quantizer"]["num_codes"] == 128
    assert other.taken().endswith("edvae-codes-128, a named config (EdVAE paper, Fig. 6)")
    assert one.run_folder != other.run_folder
    assert one.expected == {}
    expected = find_config("papers/edvae/cifar10/edvae").expected
    assert expected["perplexity"] == "420.33 ± 4.49"
    assert expected["FID with a PixelSNAIL prior"] == "51.82 ± 1.58"


def test_what_is_given_out_is_a_copy():
    one = find_config("papers/edvae/cifar10/edvae")
    one.tree["seed"] = -1
    assert find_config("papers/edvae/cifar10/edvae").tree["seed"] == 42


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("digits/edvea", "did you mean digits/edvae"),
        ("edvae", "did you mean cifar10/edvae or digits/edvae or shapes/edvae"),
        ("configs/cifar10/edvae-paper/edvae-code-128.yaml", "edvae-paper/edvae-codes-128"),
        ("no/such.yaml", "`imagetok configs` lists"),
        ("papers/edvae", "`imagetok configs` lists"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(given, near):
    with pytest.raises(ConfigError, match="cannot read the config") as refusal:
        find_config(given)
    assert near in str(refusal.value)


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="found a folder"):
        find_config(tmp_path)


def test_the_list_shows_itself():
    everything = configs()
    assert isinstance(everything, Catalogue) and "digits/edvae" in everything
    assert len(everything) == len(everything.names) == len(set(everything.names))
    line = next(li for li in repr(everything).splitlines() if "papers/edvae/cifar10/edvae " in li)
    assert "EdVAE on CIFAR-10 (EdVAE paper, Tables 1 to 4); perplexity: 420.33 ± 4.49" in line
    assert "digits/edvae" in everything._repr_html_()
    group = everything.under("papers/kaokore")
    assert group.names[0] == "papers/kaokore/vqvae" and len(group) == 3
    one = everything["kaokore/vqvae2"]
    assert isinstance(one, NamedConfig)
    assert "MSE x 10^3" in repr(one) and "Kaokore report, Table 1" in repr(one)


def test_a_copy_is_a_file_of_its_own(tmp_path):
    target = configs("papers/edvae/cifar10/edvae").save(tmp_path / "new" / "mine.yaml")
    assert find_config(target).tree == configs("papers/edvae/cifar10/edvae").tree
    with pytest.raises(ConfigError, match="exists already"):
        configs("digits/edvae").save(target)
    assert configs("digits/edvae").save(tmp_path).name == "edvae.yaml"


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder of installed packages: imagetok, and a stranger's `configs` and `pyproject.toml`."""
    site = tmp_path / "lib" / "site-packages"
    for name in ("imagetok", "configs/digits", "imagetok-0.1.0.dist-info"):
        (site / name).mkdir(parents=True)
    (site / "configs" / "digits" / "edvae.yaml").write_text("kind: a stranger's\n")
    (site / "pyproject.toml").write_text('[project]\nname = "stranger"\n')
    (site / "imagetok" / "__init__.py").write_text("")
    (site / "imagetok-0.1.0.dist-info" / "METADATA").write_text("Name: imagetok\nVersion: 0.1.0\n")
    (site / "imagetok-0.1.0.dist-info" / "RECORD").write_text(
        "imagetok/__init__.py,,\n../../share/imagetok/configs/digits/edvae.yaml,,\n"
    )
    monkeypatch.setattr(folder, "__file__", str(site / "imagetok" / "named_configs" / "folder.py"))
    monkeypatch.syspath_prepend(site)
    return site


def put(prefix: Path) -> Path:
    folder = prefix / "share" / "imagetok" / "configs"
    (folder / "digits").mkdir(parents=True)
    (folder / "digits" / "edvae.yaml").write_text("kind: ours\n")
    return folder


def test_an_installation_says_where_its_configs_are(site, tmp_path):
    ours = put(tmp_path)
    assert configs_folder().resolve() == ours
    assert find_config("digits/edvae").tree == {"kind": "ours"}


def test_a_target_folder_has_them_below_itself(site):
    """`pip install --target` moves files after it has listed them."""
    ours = put(site)
    assert configs_folder().resolve() == ours


def test_an_installation_without_them_says_so(site, tmp_path):
    with pytest.raises(ConfigError, match=r"named configs to be installed .*, found none"):
        find_config("digits/edvae")
    mine = tmp_path / "mine.yaml"
    mine.write_text("kind: mine\n")
    assert find_config(mine).tree == {"kind": "mine"}  # a file needs no folder of ours


def test_a_checkout_of_another_project_is_not_ours(site, tmp_path):
    ours = put(tmp_path)
    (site / "pyproject.toml").write_text('[project]\nname = "imagetok"\n')
    assert configs_folder().resolve() == (site / "configs").resolve()  # it says that it is
    (site / "pyproject.toml").write_text("not toml [")
    assert configs_folder().resolve() == ours
