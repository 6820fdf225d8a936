"""Every table and figure of the three papers has a name, and its numbers are those printed.

The tables below are copied from the papers row by row, and are no part of the sheets.
"""

import pytest

from imagetok import configs
from imagetok.config import apply_overrides, read_yaml
from imagetok.errors import ConfigError
from imagetok.named_configs import NamedFigure, configs_folder, find_config, find_figure
from imagetok.named_configs.experiments import expand

FIGURES = {
    "papers/edvae": {
        "Table 1": "table-1",
        "Table 2": "table-2",
        "Table 3": "table-3",
        "Table 4": "table-4",
        "Fig. 2(a)": "fig-2a",
        "Fig. 2(b)": "fig-2b",
        "Fig. 3": "fig-3",
        "Fig. 4": "fig-4",
        "Fig. 5": "fig-5",
        "Fig. 6": "fig-6",
        "Fig. 7": "fig-7",
        "Fig. 8": "fig-8",
        "Fig. 9": "fig-9",
        "App. D.1": "section-d1",
        "Table D.6": "table-d6",
        "Fig. D.10": "fig-d10",
        # Fig. 1 is a diagram of the method, and Table C.5 its notation of layers.
    },
    "papers/sqvae": {
        "Table 2": "table-2",
        "Fig. 5": "fig-5",
        'slide "Gaussian SQ-VAE on CelebA"': ("reconstructions", "samples"),
        # Table 3 is about speech.
    },
    "papers/kaokore": {
        "Table 1": "table-1",
        "Fig. 1": "fig-1",
        "Fig. 2": "fig-2",
        "Fig. 3": "fig-3",
        "Fig. 4": "fig-4",
    },
}

EDVAE = ("CIFAR10", "CelebA", "LSUN Church")
DATA = {"CIFAR10": "cifar10", "CelebA": "celeba", "LSUN Church": "lsun-church"}
TABLES = {
    "papers/edvae/table-1": """
        VQ-VAE-EMA | 412.67 ± 2.05 | 405.33 ± 5.88 | 379.67 ± 3.09
        GS-VQ-VAE | 208.33 ± 6.03 | 193.33 ± 10.68 | 189.67 ± 5.02
        SQ-VAE | 407.33 ± 7.32 | 409.33 ± 2.05 | 374.00 ± 2.16
        VQ-STE++ | 414.33 ± 9.10 | 370.33 ± 4.11 | 375.67 ± 5.58
        dVAE | 190.33 ± 13.02 | 254.67 ± 11.08 | 363.33 ± 4.07
        EdVAE | 420.33 ± 4.49 | 371.33 ± 2.86 | 385.67 ± 5.63
        """,
    "papers/edvae/table-2": """
        VQ-VAE-EMA | 3.21 ± 0.05 | 1.07 ± 0.06 | 1.71 ± 0.05
        GS-VQ-VAE | 3.63 ± 0.01 | 1.32 ± 0.02 | 1.84 ± 0.06
        SQ-VAE | 4.01 ± 0.03 | 1.05 ± 0.02 | 1.79 ± 0.03
        VQ-STE++ | 3.82 ± 0.1 | 1.11 ± 0.08 | 1.83 ± 0.03
        dVAE | 3.42 ± 0.08 | 1.01 ± 0.08 | 1.60 ± 0.01
        EdVAE | 2.99 ± 0.04 | 0.89 ± 0.01 | 1.58 ± 0.01
        """,
    "papers/edvae/table-3": """
        VQ-VAE-EMA | 57.04 ± 2.32 | 34.30 ± 2.41 | 71.22 ± 2.72
        GS-VQ-VAE | 56.35 ± 2.17 | 33.12 ± 1.30 | 72.52 ± 3.25
        SQ-VAE | 54.17 ± 2.85 | 33.03 ± 1.04 | 63.41 ± 2.36
        VQ-STE++ | 55.53 ± 1.97 | 32.98 ± 2.27 | 71.03 ± 1.95
        dVAE | 58.85 ± 0.93 | 37.29 ± 3.14 | 71.32 ± 0.71
        EdVAE | 51.82 ± 1.58 | 32.51 ± 1.13 | 69.63 ± 1.29
        """,
    "papers/edvae/table-4": """
        VQ-VAE-EMA | 0.47, 0.32 | 0.44, 0.35 | 0.19, 0.15
        GS-VQ-VAE | 0.45, 0.34 | 0.39, 0.32 | 0.20, 0.14
        SQ-VAE | 0.52, 0.30 | 0.52, 0.37 | 0.23, 0.17
        VQ-STE++ | 0.51, 0.32 | 0.47, 0.36 | 0.24, 0.15
        dVAE | 0.43, 0.34 | 0.41, 0.30 | 0.20, 0.15
        EdVAE | 0.54, 0.35 | 0.48, 0.35 | 0.28, 0.18
        """,
}
SQVAE_COLUMNS = (
    *("MSE x 10^3", "rFID", "FID"),
    *("Neighbor-3", "Neighbor-5", "Neighbor-10", "Interpolation"),
)
SQVAE_TABLE_2 = """
    VAE | 4.79 ± 0.01 | 40.3 ± 0.3 | - | - | - | - | -
    VQ-VAE-EMA | 1.33 ± 0.41 | 18.5 ± 5.1 | 42.0 ± 11.5 | 31.9 ± 14.8 | 42.8 ± 20.7 | 70.7 ± 35.4 | 28.2 ± 6.4
    VQ-VAE-EMA with reset | 1.62 ± 0.36 | 22.0 ± 5.9 | 51.8 ± 10.8 | 39.7 ± 12.0 | 52.7 ± 14.7 | 83.2 ± 20.4 | 32.6 ± 7.1
    SQ-VAE, fixed variance | 1.09 ± 0.01 | 15.9 ± 0.1 | 38.2 ± 0.9 | 20.0 ± 0.4 | 26.4 ± 0.8 | 41.5 ± 2.1 | 18.6 ± 0.3
    SQ-VAE I | 0.96 ± 0.01 | 14.8 ± 0.3 | 28.2 ± 0.9 | 17.8 ± 0.1 | 21.9 ± 0.1 | 33.1 ± 0.3 | 17.6 ± 0.6
    SQ-VAE II | 0.98 ± 0.01 | 14.3 ± 0.2 | 27.7 ± 1.1 | 17.8 ± 0.2 | 22.2 ± 0.4 | 34.0 ± 0.9 | 17.6 ± 0.1
    SQ-VAE III | 0.96 ± 0.00 | 13.9 ± 0.1 | 28.1 ± 0.3 | 17.3 ± 0.2 | 21.6 ± 0.3 | 33.5 ± 0.6 | 18.5 ± 0.4
    """  # noqa: E501
CLAMPS = {
    "CIFAR10": {"10": "351", "15": "421", "20": "425", "25": "411", "30": "diverged"},
    "CelebA": {"10": "319", "15": "376", "20": "386", "25": "diverged", "30": "diverged"},
    "LSUN Church": {"10": "363", "15": "375", "20": "393", "25": "diverged", "30": "diverged"},
}
TEMPERATURES = {
    "CIFAR10": {"1": "190", "2": "170", "5": "180"},
    "CelebA": {"1": "255", "2": "217", "5": "296"},
}
KAOKORE = {
    "VQ-VAE": {"commitment": "0.0793 ± 0.0027", "reconstruction": "0.0056 ± 0.0001"},
    "VQ-VAE-2": {"commitment": "0.0025 ± 0.0035", "reconstruction": "0.0005 ± 0.0008"},
}


def rows(text: str) -> dict[str, list[str]]:
    """The numbers of a table by method."""
    split = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    return {method: numbers for method, *numbers in split}


def printed(figure: NamedFigure) -> dict[tuple[str, str], list[str]]:
    """The numbers of a figure's runs by data set and run."""
    return {(run.data, run.what): list(run.expected.values()) for run in figure.runs}


def test_no_table_or_figure_is_missing():
    listed = configs().figures
    for paper, places in FIGURES.items():
        names = {
            place: (names,) if isinstance(names, str) else names for place, names in places.items()
        }
        found = {name: figure for name, figure in listed.items() if name.startswith(f"{paper}/")}
        assert set(found) == {f"{paper}/{name}" for own in names.values() for name in own}
        for place, own in names.items():
            assert {found[f"{paper}/{name}"].sheet.source for name in own} == {place}
    assert {name.rpartition("/")[0] for name in listed} == set(FIGURES)


@pytest.mark.parametrize("name", TABLES)
def test_the_numbers_of_edvae_are_those_printed(name):
    expected = {
        (DATA[data], method): number.split(", ")
        for method, numbers in rows(TABLES[name]).items()
        for data, number in zip(EDVAE, numbers, strict=True)
    }
    assert printed(find_figure(name)) == expected


def test_the_numbers_of_sqvae_are_those_printed():
    figure = find_figure("papers/sqvae/table-2")
    assert tuple(figure.sheet.columns) == SQVAE_COLUMNS
    found = {
        run.what: [
            run.expected.get(column, "-").replace("\N{EN DASH}", "-") for column in SQVAE_COLUMNS
        ]
        for run in figure.runs
    }
    assert found == rows(SQVAE_TABLE_2)


@pytest.mark.parametrize(
    ("name", "key", "numbers"),
    [("table-d6", "max_logit", CLAMPS), ("section-d1", "start", TEMPERATURES)],
)
def test_the_points_of_edvaes_ablations_are_those_printed(name, key, numbers):
    figure = find_figure(f"papers/edvae/{name}")
    for data, row in numbers.items():
        runs = [run for run in figure.runs if run.data == DATA[data]]
        found = {}
        for run in runs:
            point = next(v for k, v in run.changes.items() if k.endswith(key))
            found.setdefault(f"{point:g}", set()).add(run.expected["perplexity"])
        assert found == {point: {number} for point, number in row.items()}


def test_the_place_of_a_number_is_where_it_is_printed():
    """Figures print no numbers of their own, so theirs are those of a table."""
    places = {
        "papers/edvae/table-2": {"EdVAE paper, Table 2"},
        "papers/edvae/fig-3": {"EdVAE paper, Tables 1 to 4"},
        "papers/edvae/fig-d10": {"EdVAE paper, Tables 1 to 4"},
        "papers/edvae/table-d6": {"EdVAE paper, Table D.6"},
        "papers/kaokore/fig-3": {"Kaokore report, Table 1"},
        "papers/sqvae/reconstructions": {"SQ-VAE paper, Table 2"},
    }
    for name, expected in places.items():
        assert {run.source for run in find_figure(name).runs if run.expected} == expected


def test_the_numbers_of_kaokore_are_those_printed():
    for run in find_figure("papers/kaokore/table-1").runs:
        for what, number in KAOKORE[run.what].items():
            assert run.expected[f"{what} on [-1, 1]"] == number


def test_what_a_figure_trains_are_the_named_configs():
    """So what `imagetok train NAME` trains is what the table is about."""
    for figure in configs().figures.values():
        for run in figure.runs:
            paper = figure.name.rpartition("/")[0]
            folder = paper if paper.endswith(f"/{run.data}") else f"{paper}/{run.data}"
            named = find_config(f"{folder}/{run.name}").tree
            train = {k: v for k, v in run.tree["train"].items() if k != "keep_checkpoints"}
            assert {**run.tree, "train": train} == named, (figure.name, run.name)


def test_a_figures_name_is_no_config_and_is_found_by_its_end():
    with pytest.raises(ConfigError, match="imagetok reproduce papers/edvae/table-1"):
        find_config("papers/edvae/table-1")
    with pytest.raises(ConfigError, match="did you mean papers/edvae/fig-d10"):
        find_figure("fig-d10")
    with pytest.raises(ConfigError, match="did you mean papers/edvae/table-1"):
        find_figure("papers/edvae/tabel-1")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"figures.fig-6.data": ["mnist"]}, "not defined in the sheet: mnist"),
        ({"figures.fig-6.methods": ["vqq"]}, "not defined in the sheet: vqq"),
        ({"figures.fig-6.sweep": "Fig. 7"}, "not defined in the sheet: Fig. 7"),
        ({"figures.fig-6.kind": "cake"}, "figures.fig-6.kind"),
        ({"checkpoints.cifar10.cake": [1]}, "not defined in the sheet: cake"),
    ],
)
def test_a_wrong_figure_in_a_sheet_is_refused(changes, says):
    sheet = read_yaml(configs_folder() / "papers" / "edvae.yaml")
    with pytest.raises(ConfigError, match=says):
        expand(apply_overrides(sheet, changes), "papers/edvae", "edvae.yaml")
