"""Delimiters between the labels of a cell."""

from __future__ import annotations

import pytest

from tasks.cells.delimiters import judge_delimiters


@pytest.mark.parametrize(
    ("values", "column", "verdict"),
    [
        (["drama|comedy", "comedy", "horror|comedy"], "x", ("|", "several")),
        (["a;b", "b;c", "a"], "x", (";", "several")),
        (["sport, tech", "tech, business", "sport"], "x", (",", "several")),
        (["sport, tech", "tech, business", "business, sport"], "x", (",", "several")),
        (["Home; Garden", "Home; Garden", "Sport"], "x", (";", "single")),
        (["a|b", "c|d"], "x", ("|", "doubt")),
        (["Washington, D.C.", "New York"], "city", (",", "single")),
        (["Washington, D.C.", "Washington"], "city", (",", "doubt")),
        (["Portland, Oregon", "Salem, Oregon", "Portland, Maine"], "city", (",", "doubt")),
        (["Pepper,_bell_healthy", "Pepper,_bell_spot", "Corn"], "x", (",", "doubt")),
        (["Drama, Comedy", "Comedy, War"], "genres", (",", "several")),
        (["0,5", "1,0", "0,0", "1,5"], "score", (",", "doubt")),
        (["3,5", "5", "3,7"], "topics", (",", "several")),
        (["haze primary", "clear primary", "haze", "clear"], "tags", (" ", "several")),
        (["very good", "good", "bad", "very bad"], "rating", None),
        (["#a #b", "#b", "#a #c"], "tags", (" ", "doubt")),
        (["new york", "los angeles", "ohio"], "tags", (" ", "single")),
        (["scab rust", "scab", "rust", "healthy"], "labels", (" ", "doubt")),
        (["0 16", "5", "7 1 2"], "target", (" ", "doubt")),
        (["world news", "local news", "sport"], "categories", None),
        (["cs.AI cs.LG", "cs.LG stat.ML", "cs.AI", "stat.ML cs.AI"], "categories", (" ", "doubt")),
        (["a & b", "a", "b", "c & a", "c"], "tags", ("&", "doubt")),
        (["a", "b"], "x", None),
        ([1, 2], "x", None),
        (["a|b", 1], "x", None),
        ([None, ""], "x", None),
    ],
)
def test_judge_delimiters_asks_if_the_parts_recur(
    values: list[object], column: str, verdict: tuple[str, str] | None
) -> None:
    found = judge_delimiters(values, column)
    assert (found and (found.mark, found.verdict)) == verdict
