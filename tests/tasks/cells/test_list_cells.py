"""Lists written as text."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.cells.list_cells import are_lists, parse_list


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("['Action', 'Sci-Fi']", ["Action", "Sci-Fi"]),
        ('["a, b", "c"]', ["a, b", "c"]),
        (" [1, 0, 0] ", [1, 0, 0]),
        ("[1. 0. 1.]", [1.0, 0.0, 1.0]),
        ("['a' 'b c']", ["a", "b c"]),
        ("[Action, Sci-Fi]", ["Action", "Sci-Fi"]),
        ("('a', 'b')", ["a", "b"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("[]", []),
        ("[True, false]", ["True", "false"]),
        ("<c++><.net>", ["c++", ".net"]),
        ("<java>", ["java"]),
        ("<p>a</p>", None),
        ("<br/>", None),
        ("a|b", None),
        ("(noun)", None),
        ("{'a': 1}", None),
        ("[a", None),
        ("", None),
        ("[" * 5000 + "]" * 5000, ["[" * 4999 + "]" * 4999]),
    ],
)
def test_parse_list_reads_the_notations_of_lists(text: str, items: list[Any] | None) -> None:
    assert parse_list(text) == items


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["['a']", "[]"], True),
        (["<a><b>", "<a>"], True),
        (["<unk>", "<pad>"], False),
        (["[a, b]", "[b]", None, ""], True),
        (["[POS]", "[NEG]"], False),  # words in brackets
        (["['a']", "b"], False),
        ([None], False),
    ],
)
def test_are_lists_needs_more_than_words_in_brackets(values: list[Any], expected: bool) -> None:
    assert are_lists(values) is expected
