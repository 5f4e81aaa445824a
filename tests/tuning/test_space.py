"""The notation of a search space."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.search_space.space import Choice, Interval, is_notation, parse_values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("log(1e-5,1e-3)", Interval(1e-5, 1e-3, log=True)),
        ("log(8, 256)", Interval(8, 256, log=True)),
        ("range(0,0.5,0.1)", Interval(0, 0.5, 0.1)),
        ("range(1, 4)", Interval(1, 4)),
        ("choice(4,8,16)", Choice((4, 8, 16))),
        ("choice(frozen, lora)", Choice(("frozen", "lora"))),
        ("choice(timm/resnet18, pkg://a/b)", Choice(("timm/resnet18", "pkg://a/b"))),
        ("Choice(true, null, 1e-3)", Choice((True, None, 1e-3))),
        ([4, 8], Choice((4, 8))),
    ],
)
def test_parse_values_reads(value: Any, expected: Choice | Interval) -> None:
    assert parse_values(value) == expected
    assert parse_values(str(expected)) == expected


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("lgo(1e-5,1e-3)", "unknown function 'lgo'; did you mean 'log'?"),
        ("loguniform(1e-5,1e-3)", "did you mean 'log'?"),
        ("uniform(0,1)", "did you mean 'range'?"),
        ("log(1e-5)", "log needs two numbers with commas between them, as in log(1e-5"),
        ("log(a,b)", "log needs two numbers"),
        ("log(1e-5,1e-3", "closing parenthesis is missing; write it as in log(1e-5, 1e-3)"),
        ("log(1e-3,1e-5)", "smaller bound first"),
        ("log(0,1)", "bounds above 0"),
        ("range(0,1,2)", "at most 1"),
        ("range(0,1,0)", "above 0"),
        ("range(0,1,0.1,2)", "range needs two or three numbers"),
        ("choice()", "without values"),
        ("choice(4,4)", "twice"),
        ("choice([1,2],[3])", "single values"),
        ("choice(a,[b)", "cannot be read"),
        ([], "without values"),
        (3, "should be a list, or such as"),
        ("log 1e-5 1e-3", "should be a list, or such as"),
    ],
)
def test_parse_values_rejects_with_the_remedy(value: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)") as caught:
        parse_values(value)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ("choice(a,b,c)", 3),
        ("range(0,0.5,0.1)", 6),
        ("range(1,4)", 4),
        ("range(0.0,1)", None),
        ("log(8,64)", None),
    ],
)
def test_size_counts_what_can_be_counted(values: str, size: int | None) -> None:
    assert parse_values(values).size == size


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("log(1e-5,1e-3)", True),
        ("chioce(a,b)", True),
        ("randint(1,3)", True),
        ("Summarize: {text} (briefly)", False),
        ("log(1e-5,1e-3", True),
        ("Range(x) is a set", False),
        ("sigmoid(x)", False),
        (0.1, False),
        (["a"], False),
    ],
)
def test_is_notation_spares_other_texts(value: Any, is_one: bool) -> None:
    assert is_notation(value) is is_one
