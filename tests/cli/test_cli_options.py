"""How measures are printed."""

from cli.options import show_columns


def test_one_column_shows_the_rows_that_have_it(capsys):
    show_columns({"neighbour-1": {"mse": 0.5}, "interpolation": {}})
    assert capsys.readouterr().out == "  neighbour-1  0.5\n"


def test_several_columns_leave_places_free(capsys):
    show_columns({"a": {"mse": 0.5, "fd": 2}, "between": {"fd": 30}})
    assert capsys.readouterr().out.splitlines() == [
        "           mse  fd",
        "  a        0.5   2",
        "  between       30",
    ]
