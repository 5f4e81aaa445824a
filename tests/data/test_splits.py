"""Splits by share: complete, disjoint, reproducible, and close to their shares in every class."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.splits import count_duplicates, draw_per_class, split_by_share, strata_of


@st.composite
def tables(draw: Any) -> dict[str, Any]:
    size = draw(st.integers(1, 60))

    def column(most: int) -> Any:
        return draw(st.lists(st.integers(0, most), min_size=size, max_size=size))

    shares = {"validation": draw(st.floats(0, 0.4)), "test": draw(st.floats(0, 0.4))}
    return {
        "shares": shares,
        "seed": draw(st.integers(0, 5)),
        "identity": column(draw(st.sampled_from([3, 40, 1000]))),
        "strata": column(draw(st.sampled_from([0, 3, 50]))),
        "groups": draw(st.sampled_from([None, column(20)])),
    }


@given(tables())
@settings(max_examples=300, deadline=None)
def test_split_by_share_assigns_every_row_once(table: dict[str, Any]) -> None:
    parts = split_by_share(**table)
    assert sorted(parts) == ["test", "train", "validation"]
    assert sorted(index for part in parts.values() for index in part) == list(
        range(len(table["identity"]))
    )
    assert all(part == sorted(part) for part in parts.values())
    assert parts == split_by_share(**table)


@given(tables())
@settings(max_examples=300, deadline=None)
def test_split_by_share_keeps_duplicates_and_groups_together(table: dict[str, Any]) -> None:
    parts = split_by_share(**table)
    for keys in (table["identity"], table["groups"]):
        if keys is not None:
            pairs = {(keys[index], name) for name, part in parts.items() for index in part}
            assert len(pairs) == len(set(keys))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), min_size=1, max_size=40),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 5),
)
@settings(max_examples=500, deadline=None)
def test_split_by_share_is_stratified_to_within_one_component(
    components: list[tuple[int, int]], validation: float, test: float, seed: int
) -> None:
    # Components of one class with 1 to 6 duplicates each.
    identity = [number for number, (_, size) in enumerate(components) for _ in range(size)]
    strata = [stratum for stratum, size in components for _ in range(size)]
    shares = {"validation": validation, "test": test}
    parts = split_by_share(shares, seed, identity, strata)
    largest = max(size for _, size in components)
    for stratum, rows in Counter(strata).items():
        assert any(strata[index] == stratum for index in parts["train"])
        for name, share in shares.items():
            count = sum(strata[index] == stratum for index in parts[name])
            assert abs(count - share * rows) <= largest + 1e-9


def test_split_by_share_is_exact_if_possible() -> None:
    strata = ["a"] * 100 + ["b"] * 50
    parts = split_by_share({"validation": 0.1, "test": 0.2}, 0, range(150), strata)
    assert {name: Counter(strata[i] for i in part) for name, part in parts.items()} == {
        "train": {"a": 70, "b": 35},
        "validation": {"a": 10, "b": 5},
        "test": {"a": 20, "b": 10},
    }


def test_split_by_share_holds_out_rows_of_many_small_classes() -> None:
    strata = [index // 4 for index in range(4000)]  # 1000 classes of 4 rows
    parts = split_by_share({"validation": 0.1}, 0, range(4000), strata)
    assert abs(len(parts["validation"]) - 400) <= 2
    assert len({strata[index] for index in parts["train"]}) == 1000


def test_split_by_share_ignores_classes_of_one_row() -> None:
    strata = [str(index) for index in range(500)] + ["big"] * 100
    parts = split_by_share({"test": 0.2}, 0, range(600), strata)
    assert abs(len(parts["test"]) - 20) <= 1


def test_split_by_share_links_rows_transitively() -> None:
    # 0 and 1 are duplicates, 1 and 2 share a group, 2 and 3 are duplicates: one component.
    identity, groups = ["a", "a", "b", "b", *"cdefgh"], ["p", "q", "q", *"rstuvwx"]
    for seed in range(10):
        parts = split_by_share({"test": 0.4}, seed, identity, [0] * 10, groups)
        assert len({index in parts["test"] for index in range(4)}) == 1


def test_split_by_share_does_not_link_rows_without_a_group() -> None:
    parts = split_by_share({"test": 0.5}, 0, range(10), [0] * 10, [None] * 10)
    assert len(parts["test"]) == 5


def test_strata_of_takes_the_rarest_of_several_labels() -> None:
    labels = [("a", "b"), ("a",), ("a", "c"), ("b", "a"), (), ("c", "b")]
    assert strata_of(labels) == ["b", "a", "c", "b", "", "c"]


def test_split_by_share_holds_out_rows_with_unique_label_combinations() -> None:
    pairs = list(itertools.combinations("abcdefghij", 2))
    assert len(set(pairs)) == 45
    held_out = split_by_share({"test": 0.2}, 0, range(45), strata_of(pairs))["test"]
    assert 7 <= len(held_out) <= 11


def test_split_by_share_depends_on_the_seed() -> None:
    chosen = {
        tuple(split_by_share({"test": 0.2}, s, range(50), [0] * 50)["test"]) for s in range(5)
    }
    assert len(chosen) == 5


def test_split_by_share_without_shares_puts_all_rows_into_train() -> None:
    assert split_by_share({"test": 0.0}, 0, "abc", "xyz") == {"train": [0, 1, 2], "test": []}


def test_count_duplicates_counts_all_but_the_first() -> None:
    assert count_duplicates(["a", "b", "a", "a"]) == 2


def test_draw_per_class_is_exact_and_depends_on_the_seed_only() -> None:
    classes = ["a", "b", "c"] * 20 + ["a"] * 30
    drawn = draw_per_class(classes, 7, seed=0)
    assert drawn == sorted(set(drawn))
    assert Counter(classes[row] for row in drawn) == {"a": 7, "b": 7, "c": 7}
    assert drawn == draw_per_class(classes, 7, seed=0)
    assert len({tuple(draw_per_class(classes, 7, seed)) for seed in range(5)}) == 5
    assert set(drawn) < set(draw_per_class(classes, 9, seed=0))
    assert draw_per_class(["x", "y"], 1, seed=0) == [0, 1]
