"""The named configs: each is complete and says how it is run; every method builds and trains, and
the models of the papers' tables are as large as the papers'.

What they resolve to is held by `test_configs_lock.py`.
"""

import math
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from imagetok import configs, seeding
from imagetok.config import apply_overrides, differences, parse_yaml, validate
from imagetok.data import ImageBatch
from imagetok.errors import ConfigError
from imagetok.named_configs import NamedConfig, catalogue, configs_folder, find_config
from imagetok.named_configs.experiments import expand
from imagetok.quantizers import SQVAEConfig, VQEMAConfig
from imagetok.quantizers.vq import VQQuantizer
from imagetok.tokenizers import build_autoencoder
from imagetok.tokenizers.flat import FlatTokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.optimizer import build_optimizer
from imagetok.training.schedules import values_at
from imagetok.training.tokenizer import loss_function
from prior.build import build_prior
from prior.config import PriorConfig, PriorRun

ROOT = Path(__file__).parent.parent / "configs"
ALL = {config.name: config for config in configs()}
LEFT_OUT = [("averages", "increments")]
FILES = [name for name, config in ALL.items() if config.path is not None]


@cache
def run_of(name: str) -> TokenizerRun | PriorRun:
    section = TokenizerRun if ALL[name].tree["kind"] == "tokenizer" else PriorRun
    return validate(ALL[name].tree, section, name)


def families() -> dict[str, str]:
    """One config of each network and quantizer, and of each prior, by what it is one of."""
    found = {}
    for name in ALL:
        run = run_of(name)
        if isinstance(run, TokenizerRun):
            found.setdefault(f"{run.tokenizer.network.kind} {run.tokenizer.method[-1]}", name)
        else:
            found.setdefault(f"prior {run.model.kind}", name)
    return found


FAMILIES = families()


def check_that_it_builds(run: TokenizerRun | PriorRun) -> None:
    """Nothing is allocated: many are large."""
    if isinstance(run, TokenizerRun):
        expected = [
            level.num_codes
            for level in run.tokenizer.levels
            for _ in range(getattr(level, "num_levels", 1))
        ]
        with torch.device("meta"):
            assert list(build_autoencoder(run.tokenizer).num_codes) == expected
    else:
        levels = 2 if run.model.kind == "hierarchy" else 1
        architecture = PriorConfig(
            tokenizer_fingerprint="0" * 64,
            num_codes=(512,) * levels,
            grids=((4, 4), (8, 8))[-levels:],
            num_classes=10,
            model=run.model,
        )
        with torch.device("meta"):
            assert build_prior(architecture).config == architecture


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_method_builds(name):
    check_that_it_builds(run_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_config_builds(name):
    check_that_it_builds(run_of(name))


def test_a_config_states_every_key():
    """But the lengths that are those of the run; so that nobody has to know the defaults."""
    for name, config in ALL.items():
        resolved = run_of(name).model_dump(mode="json")
        missing = differences(_as_dumped(config.tree), resolved)
        assert all(key.endswith(".steps") for key in missing), (name, missing)
        steps = resolved["train"]["steps"]
        assert all(change == (None, steps) for change in missing.values()), (name, missing)


def _as_dumped(tree):
    """Without the values that are stated in files, and left out of dumps."""
    match tree:
        case dict():
            kept = {key: value for key, value in tree.items() if (key, value) not in LEFT_OUT}
            return {key: _as_dumped(value) for key, value in kept.items()}
        case list():
            return [_as_dumped(value) for value in tree]
        case _:
            return tree


def test_no_prior_selects_its_weights_on_test_codes():
    for name in ALL:
        run = run_of(name)
        if isinstance(run, PriorRun) and (run.export == "best" or run.patience is not None):
            assert run.data.test is None and run.data.held_out > 0, name


def test_every_vqvae_ema_states_its_averages():
    for name in ALL:
        run = run_of(name)
        if isinstance(run, TokenizerRun):
            levels = [level for level in run.tokenizer.levels if isinstance(level, VQEMAConfig)]
            assert all("averages" in level.model_fields_set for level in levels), name


def test_no_length_stands_there_that_is_that_of_the_run():
    """So that another `train.steps` alone changes it, too."""

    def lengths(tree, steps, path=""):
        if not isinstance(tree, dict):
            return []
        is_schedule = "_cosine" in str(tree.get("kind"))
        own = [path] if is_schedule and tree.get("steps") == steps else []
        return own + [p for k, v in tree.items() for p in lengths(v, steps, f"{path}.{k}")]

    for name, config in ALL.items():
        assert lengths(config.tree, config.tree["train"]["steps"]) == [], name


def test_headers_hold_the_command_that_runs_it(monkeypatch):
    monkeypatch.setattr(catalogue, "_catalogue", cache(catalogue._catalogue))
    for name, config in ALL.items():
        lines = [line for line in config.text.splitlines() if line.startswith("#")]
        commands = [line.strip("# ") for line in lines if "imagetok train" in line]
        assert commands, f"{name}: no command in the header"
        assert find_config(shlex.split(commands[-1])[2]).name == name


def check_that_the_text_is_the_tree(config: NamedConfig) -> None:
    assert parse_yaml(config.text, config.name) == config.tree


@pytest.mark.parametrize("name", ["cifar10/edvae", *FAMILIES.values()])
def test_what_is_printed_is_the_config(name):
    check_that_the_text_is_the_tree(ALL[name])


@pytest.mark.slow
def test_whatever_is_printed_is_the_config():
    for config in ALL.values():
        check_that_the_text_is_the_tree(config)


def test_a_file_is_the_experiment_that_has_its_path():
    """Both are there to be read: the whole file, and what the paper varies."""
    aliases = {alias: config for config in ALL.values() for alias in config.aliases}
    both = [name for name in FILES if name in aliases]
    assert len(both) == 6
    for name in both:
        assert run_of(name) == run_of(aliases[name].name)
        assert ALL[name].expected == aliases[name].expected != {}


def test_no_two_names_share_a_run_folder():
    names = [n for config in ALL.values() for n in {config.name, *config.aliases}]
    folders = {name: find_config(name).run_folder for name in FILES}
    folders |= {name: Path("runs") / name.replace("/", "-") for name in names}
    assert len(set(folders.values())) == len(folders)
    assert find_config("digits/edvae").run_folder == Path("runs/digits-edvae")


def test_an_installation_has_every_folder_and_no_package_is_made_of_them():
    files = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = sorted({path.parent.relative_to(ROOT.parent) for path in ROOT.rglob("*.yaml")})
    assert files["data-files"] == {
        f"share/imagetok/{folder.as_posix()}": [f"{folder.as_posix()}/*.yaml"] for folder in folders
    }
    assert {path.suffix for path in ROOT.rglob("*") if path.is_file()} == {".yaml"}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar10/edvae", 5_195_907),
        ("celeba/dvae", 5_195_907),
        ("lsun-church/edvae", 5_211_267),
        ("cifar10/edvae-paper/edvae-codes-128", 4_992_771),
        ("cifar10/edvae-paper/edvae-codes-2048", 6_008_451),
        ("celeba/edvae-paper/dvae-dim-256", 5_472_387),
        ("cifar10/gs-vqvae", 609_427),
        ("mnist/sqvae", 240_386),
        ("fashion-mnist/sqvae", 248_578),
        ("cifar10/sqvae-paper/sqvae-i", 341_252),
        ("celeba/sqvae-paper/sqvae-i", 630_532),
        ("celeba/sqvae-paper/sqvae-iii", 671_876),
        ("celebamask-hq/sqvae-paper/sqvae-vmf", 196_756 + 154_071 + 64 * 65 + 2),
        ("kaokore/vqvae", 1_260_931),
        ("kaokore/vqvae2", 1_388_867),
    ],
)
def test_models_have_the_sizes_of_the_papers(name, parameters):
    """Counted in the released code."""
    run = validate(find_config(name).tree, TokenizerRun, name)
    with torch.device("meta"):
        model = build_autoencoder(run.tokenizer)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_variance_of_sqvae_starts_in_proportion_to_the_dimensions_of_a_code():
    """As the released configs advise, without a function: larger for larger codes."""
    starts: dict[float, list[str]] = {}
    for name in ALL:
        run = run_of(name) if name.startswith("papers/") else None
        quantizer = run.tokenizer.quantizer if isinstance(run, TokenizerRun) else None
        if isinstance(quantizer, SQVAEConfig):
            ratio = math.exp(quantizer.log_variance) * 64 / quantizer.code_dim
            starts.setdefault(round(ratio, 9), []).append(name)
    assert set(starts) == {10, 20}
    assert all("mnist/" in name for name in starts[10])  # MNIST and Fashion-MNIST


def test_the_objective_of_kaokore_is_a_quarter_of_the_public_codes():
    """nadavbh12/VQ-VAE, on pixels in [-1, 1]; with a quarter of epsilon, Adam steps are equal."""
    small = {
        "tokenizer.image.height": 16,
        "tokenizer.image.width": 16,
        "tokenizer.network.width": 8,
        "tokenizer.quantizer.code_dim": 8,
        "tokenizer.quantizer.num_codes": 4,
    }
    tree = apply_overrides(find_config("papers/kaokore/vqvae").tree, small)
    run = validate(tree, TokenizerRun, "small")
    assert run.train.optimizer.eps == 1e-8 / 4
    assert [run.train.learning_rate.at(53 * epoch) for epoch in (29, 30, 60)] == [2e-4, 1e-4, 5e-5]
    seeding.reseed_global(0, "init")
    model = build_autoencoder(run.tokenizer)
    assert isinstance(model, FlatTokenizer) and isinstance(model.quantizer, VQQuantizer)
    stored = torch.randint(0, 256, (4, 3, 16, 16)).byte()
    loss = loss_function(run.objective, run.tokenizer.image, model.num_codes)
    values = values_at(run.objective.schedules, 0)
    found = loss(model, ImageBatch(stored, None, None), values, seeding.generator(0, "noise")).loss
    x = stored / 127.5 - 1
    z_e = model.encoder(x).movedim(1, -1)
    codebook = model.quantizer.codebook
    z_q = codebook[(z_e[..., None, :] - codebook).norm(dim=-1).argmin(-1)]
    norm = ((z_q - z_e) ** 2).norm(dim=-1).mean()
    expected = (model.decoder(z_q.movedim(-1, 1)) - x).square().mean() + 1.0 * norm + 0.5 * norm
    assert_close(4 * found, expected)


TRAINED = [name for name in FAMILIES.values() if isinstance(run_of(name), TokenizerRun)]


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_a_small_version_moves_encoder_and_decoder(name):
    run = run_of(name)
    assert isinstance(run, TokenizerRun)
    small = ["tokenizer.image.height=16", "tokenizer.image.width=16", "tokenizer.network.width=32"]
    if "num_codes" in getattr(type(run.tokenizer.quantizer), "model_fields", {}):
        small.append("tokenizer.quantizer.num_codes=16")
    if run.objective.adversarial is not None:
        small.append("objective.adversarial=null")  # it needs larger images
    tree = apply_overrides(run.model_dump(mode="json"), small)
    config = validate(tree, TokenizerRun, "small").tokenizer
    seeding.reseed_global(0, "init")
    model = build_autoencoder(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stored = torch.randint(0, config.image.num_classes or 256, (4, config.image.channels, 16, 16))
    batch = ImageBatch(stored.byte(), None, None)
    loss = loss_function(run.objective, config.image, model.num_codes)
    optimizer = build_optimizer(model, run.train.optimizer)
    optimizer.param_groups[0]["lr"] = run.train.learning_rate.at(1)
    values = values_at(run.objective.schedules, 1)
    output = loss(model, batch, values, seeding.generator(0, "noise"))
    output.loss.backward()
    optimizer.step()
    assert output.loss.isfinite()
    still = [
        name
        for name, p in model.named_parameters()
        if name.endswith("weight") and p.ndim == 4 and torch.equal(p, before[name])
    ]
    if run.tokenizer.method[-1] == "fsq":  # it starts at the code of zeros: no first weight acts
        still = [name for name in still if not name.startswith("decoder.layers.0.")]
    assert still == []


SHEET = {
    "title": "A paper",
    "about": "",
    "notes": "",
    "base": {"kind": "tokenizer", "train": {"steps": 5}},
    "data": {"cifar10": {"title": "CIFAR-10", "set": {"data": {"source": "cifar10"}}}},
    "methods": {"vq": {"title": "VQ", "set": {"tokenizer.quantizer": {"num_codes": 4}}}},
    "tables": [
        {"source": "Table 1", "path": "{data}/{name}", "columns": ["MSE", "FID"],
         "rows": {"cifar10": {"vq": "1.50 ± 0.1, 2"}}}
    ],
    "sweeps": [
        {"source": "Fig. 2", "path": "{data}/sweep/{name}", "data": ["cifar10"], "methods": ["vq"],
         "points": {f"codes-{n}": {"tokenizer.quantizer.num_codes": n} for n in (2, 4, 8)}}
    ],
}  # fmt: skip


def test_a_sheet_describes_its_rows_and_the_points_that_change_something():
    row, first, last = expand(SHEET, "papers/p", "p.yaml").experiments()
    assert (row.name, row.path) == ("papers/p/cifar10/vq", "cifar10/vq")
    assert row.expected == {"MSE": "1.50 ± 0.1", "FID": "2"}
    assert row.source == "A paper, Table 1"
    assert [e.name.split("/")[-1] for e in (first, last)] == ["vq-codes-2", "vq-codes-8"]
    assert last.tree["tokenizer"] == {"quantizer": {"num_codes": 8}}
    assert row.tree["tokenizer"] == {"quantizer": {"num_codes": 4}}
    assert last.expected == {} and last.path == "cifar10/sweep/vq-codes-8"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tables.0.rows.cifar10": {"vqq": "1, 2"}}, "not defined in the sheet: vqq"),
        ({"tables.0.rows.cifar10.vq": "1, 2, 3"}, "expected 2 numbers in the row, found '1, 2, 3'"),
        ({"sweeps.0.data": ["mnist"]}, "not defined in the sheet: mnist"),
        ({"methods.vq.sett": {}}, "unknown key; did you mean 'set'"),
    ],
)
def test_a_sheet_that_is_none_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        expand(apply_overrides(SHEET, changes), "papers/p", "p.yaml").experiments()


def test_the_checkout_is_where_the_configs_are():
    assert configs_folder() == ROOT
