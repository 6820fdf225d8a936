"""`imagetok configs`, and names where a CONFIG is asked for."""

from pathlib import Path

import pytest

from cli.main import _run
from imagetok import configs
from imagetok.config import parse_yaml, read_yaml

TINY = ["tokenizer.network.width=8", "tokenizer.quantizer.num_codes=8", "train.trackers=[]"]


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def test_the_list_has_every_name_with_source_and_numbers(capsys):
    assert _run(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    count, drawn = len(configs()), configs().figures
    assert lines[0] == f"{count} named configs, {len(drawn)} tables and figures of papers"
    assert [line.split()[0] for line in lines[1:]] == [*drawn, *configs().names]
    line = next(line for line in lines if "papers/sqvae/celeba/sqvae-iii " in line)
    assert "(SQ-VAE paper, Table 2); MSE x 10^3: 0.96 ± 0.00, rFID: 13.9 ± 0.1" in line


def test_a_group_is_listed_alone(capsys):
    assert _run(["configs", "papers/kaokore"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 named configs, 5 tables and figures of papers"
    assert len(lines) == 1 + 3 + 5
    assert _run(["configs", "digits"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "18 named configs"


def test_one_is_printed_whole(capsys):
    name = "papers/edvae/cifar10/pixelsnail-edvae"
    assert _run(["configs", name]) == 0
    printed = capsys.readouterr().out
    assert parse_yaml(printed, "printed") == configs(name).tree
    assert "expected FID: 51.82 ± 1.58" in printed


@pytest.mark.parametrize("option", ["--out", "--copy"])
def test_one_is_copied_and_none_is_overwritten(option, tmp_path, capsys):
    target = tmp_path / "mine.yaml"
    assert _run(["configs", "digits/edvae", option, str(target)]) == 0
    assert capsys.readouterr().out == f"written: {target}\n"
    assert read_yaml(target) == configs("digits/edvae").tree
    assert _run(["configs", "digits/dvae", option, str(target)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert _run(["configs", "papers/kaokore", option, str(target)]) == 2


def test_an_unknown_name_is_refused(capsys):
    for command in (["configs"], ["train"], ["compare", "--out", "x"]):
        assert _run([*command, "digits/edvea"]) == 2
        assert "did you mean digits/edvae" in capsys.readouterr().err


def test_training_says_which_config_it_took_and_where_the_run_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--device", "cpu", *sets(*TINY, "train.steps=2")]
    assert _run(["train", "configs/digits/edvae.yaml", *words]) == 0
    (
        first,
        *_,
    ) = capsys.readouterr().out.splitlines()
    assert first == f"config: digits/edvae, a named config ({configs('digits/edvae').path})"
    recorded = read_yaml(tmp_path / "runs" / "digits-edvae" / "config.yaml")
    assert recorded["train"]["learning_rate"]["steps"] == 2
    (tmp_path / "digits").mkdir()
    mine = configs("digits/edvae").save(tmp_path / "digits" / "edvae")
    assert _run(["train", "digits/edvae", "--resume", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"config: the file {Path('digits/edvae')}"
    assert mine.is_file()


def test_a_run_that_was_begun_under_a_shorter_name_goes_on_there(tmp_path, monkeypatch, capsys):
    """As `imagetok train configs/cifar10/comparison/gpt.yaml` named its folder."""
    from imagetok.training.config_input import choose_run_folder, open_config

    monkeypatch.chdir(tmp_path)
    given = open_config("cifar10/comparison/gpt")
    older, newer = Path("runs/comparison-gpt"), Path("runs/cifar10-comparison-gpt")
    assert choose_run_folder(given, None, resume=True) == newer
    older.mkdir(parents=True)
    assert choose_run_folder(given, None) == newer
    assert choose_run_folder(given, None, resume=True) == older
    newer.mkdir()
    assert choose_run_folder(given, None, resume=True) == newer
    assert choose_run_folder(given, "mine", resume=True) == Path("mine")
