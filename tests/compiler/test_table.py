"""Tables on terminals of several widths: names are always there, and lines are never broken but in names."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from eie.compiler.report.table import Column, fitted, print_fitted

COLUMNS = [Column("layer", footer="2 layers"), Column("cycles", footer="1,234,567"), Column("stalls", 2), Column("fillers", 2),
           Column("operator", 1, text=True)]  # fmt: skip
ROWS = [["encoder/layers.0/attention/query/MatMul", "1,234,000", "12,345", "17%", "MatMul"], ["fc", "567", "1", "0%", "Gemm"]]


def printed(width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    print_fitted(screen, COLUMNS, ROWS)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "missing"),
    [(120, []), (62, []), (61, ["stalls", "fillers"]), (45, ["stalls", "fillers"]), (44, ["stalls", "fillers", "operator"])],
)
def test_columns_go_in_their_order_and_together(width: int, missing: list[str]) -> None:
    assert fitted(COLUMNS, ROWS, width)[1] == missing
    lines = printed(width)
    assert max(map(len, lines)) <= width
    shown = [c.title for c in COLUMNS if c.title not in missing]
    assert lines[0].split() == shown
    named = next(line for line in lines if "1,234,000" in line)
    assert named.startswith("encoder/layers.0/attenti")  # 24 columns of the name, whatever else there is
    assert any("no room for: stalls, fillers" in line for line in lines) == bool(missing)


def test_no_name_is_needed_for_short_ones() -> None:
    table, missing = fitted([Column("id"), Column("us", 1)], [["a", "1.5"]], 7)
    assert (table.columns[0].min_width, missing) == (2, [])


def test_a_table_without_rows() -> None:
    assert fitted(COLUMNS, [], 80)[1] == []
