"""From the entries of a config to the plan of a search, and its faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.commands.search_command import plan_words
from finetune.config.loading import load_config, read_layers
from finetune.errors import ConfigError
from finetune.registry import INSTALLED
from finetune.search_space.search_plan import SearchPlan, check_space

Planner = Callable[..., SearchPlan]
LADDER = ("method=choice(frozen,lora,full)", "rank=choice(4,8)", "lr=log(1e-5,1e-3)")


def test_keys_of_some_methods_are_asked_only_of_those(plan: Planner) -> None:
    ladder = plan(*LADDER, "alpha=4")
    asked = {method: [*ladder.asked(method)] for method in ladder.methods}
    assert asked == {"frozen": ["lr"], "lora": ["rank", "lr"], "full": ["lr"]}
    # Nor does a fixed key of one method break the others.
    assert ladder.load({"method": "full", "lr": 1e-4}).config.method.name == "full"
    lora = ladder.load({"method": "lora", "lr": 1e-4, "rank": 4}).config.method
    assert (lora.rank, lora.alpha) == (4, 4)


@pytest.mark.parametrize(
    ("words", "sampler", "trials"),
    [
        (("rank=[4,8,16]", "lr=[1e-4,3e-4]"), "grid", 6),
        (("method=choice(frozen,lora)", "rank=choice(4,8)"), "grid", 3),
        (("rank=[4,8,16]", "trials=2"), "grid", 2),
        (("lr=log(1e-5,1e-3)",), "tpe", 16),
        (("lr=log(1e-5,1e-3)", "trials=40", "sampler=gp"), "gp", 40),
        (("lr=log(1e-5,1e-3)", "time=2h"), "tpe", float("inf")),
        (("weight_decay=range(0,0.3,0.1)", "sampler=grid"), "grid", 4),
    ],
)
def test_lists_are_a_grid_and_other_spaces_are_sampled(
    plan: Planner, words: tuple[str, ...], sampler: str, trials: float
) -> None:
    assert (plan(*words).sampler, plan(*words).trials) == (sampler, trials)


def test_a_list_is_the_value_of_a_key_that_takes_lists(plan: Planner) -> None:
    targets = plan("targets=[query,value]", "rank=[4,8]")
    assert [*targets.space] == ["rank"]
    assert targets.load({"rank": 4}).config.method.targets == ["query", "value"]


def test_the_space_may_stand_in_a_file_and_later_words_fix_a_key(
    plan: Planner, tmp_path: Path
) -> None:
    file = tmp_path / "news.yaml"
    file.write_text(
        "task: text-classification\nmodel: bert\ndata: news.csv\n"
        "method: {name: choice(frozen), alpha: 8}\n".replace("choice(frozen)", "lora")
        + "search:\n  trials: 5\n  space:\n    optim.lr: log(1e-5, 1e-3)\n    rank: [4, 8]\n"
    )
    from_file = plan(base=(), config=file)
    assert {key: str(values) for key, values in from_file.space.items()} == {
        "optim.lr": "log(1e-05, 0.001)",
        "rank": "choice(4, 8)",
    }
    assert from_file.settings.trials == 5
    assert [*plan("lr=1e-4", base=(), config=file).space] == ["rank"]
    with pytest.raises(ConfigError, match="only `finetune search` reads this section"):
        load_config(file, [], INSTALLED)


@pytest.mark.parametrize(
    ("words", "faults"),
    [
        (
            ("lr=lgo(1e-5,1e-3)", "rnak=choice(4,8)", "batch_size=choice(8,abc)", "sampler=tpa"),
            (
                "lr: 'lgo(1e-5,1e-3)': unknown function 'lgo'; did you mean 'log'? (command line)",
                "search.sampler: 'tpa'",
                "rnak: unknown key; did you mean 'rank'?",
                "train.batch_size: 'abc': should be a valid integer",
            ),
        ),
        (("trails=3", "rank=[4,8]"), ("trails: unknown key; did you mean 'search.trials'?",)),
        (("method=choice(lora,fulll)",), ("unknown method 'fulll'; did you mean 'full'?",)),
        (("schedule=choice(linear,cosin)",), ("optim.schedule: 'cosin'",)),
        (("dropout=range(0,0.5,0.1)",), ("dropout: ambiguous",)),
        (("blocks=choice(1,2)", "method=lora"), ("blocks: not a key of method=lora",)),
        (("label_smoothing=range(0,1.0)",), ("task.label_smoothing: 1.0: should be less than 1",)),
        (("lr=log(1e-5,1e-3)", "sampler=grid"), ("a grid needs a list or a range with a step",)),
        (("lr=log(1e-5,1e-3)", "sampler=cmaes"), ("cmaes needs two keys",)),
        (("rank=[4,8]", "output=runs/x"), ("output.dir: each trial has a folder", "search.dir")),
        (("rank=[4,8]", "hub=me/x"), ("output.hub: each trial",)),
        (("train.best=[f1_macro,accuracy]",), ("train.best: cannot be searched",)),
        (("validation=[0.1,0.2]",), ("validation: cannot be searched",)),
        (("rank=[4,8]", "time=soon", "trials=0"), ("should be a duration", "search.trials: 0")),
        (("rank=[4,8]", "grace=2", "pruner=none"), ("grace: has no effect with search.pruner=no",)),
        (("rank=[4,8]", "search=3"), ("search: should be a section",)),
        (
            ("lr=log(1e-5,1e-3)", "optim.lr=choice(1e-3,1e-4)", "trials=2", "search.trials=3"),
            ("optim.lr: has two values, lr=log(", "search.trials: has two values, trials=2 and"),
        ),
        (("rank=[4,8]", "search.workerz=2"), ("did you mean 'workers'?",)),
    ],
)
def test_faults_are_reported_together(
    plan: Planner, words: tuple[str, ...], faults: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(*words)
    assert all(fault in str(caught.value) for fault in faults), caught.value


@pytest.mark.parametrize(
    ("duration", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("45", 45)]
)
def test_time_has_a_unit(plan: Planner, duration: str, seconds: float) -> None:
    assert plan("rank=[4,8]", f"time={duration}").settings.time == seconds


def test_plan_words_checks_what_trials_name_before_torch_is_needed(tmp_path: Path) -> None:
    words = ["task=text-classification", f"data={tmp_path}/absent.csv", "model=bert", "rank=[4,8]"]
    with pytest.raises(Exception, match="absent.csv"):
        plan_words(words)


def test_faults_of_the_space_are_answered_before_a_table_is_read(tmp_path: Path) -> None:
    table = tmp_path / "news.csv"
    table.write_bytes(b"\xff\xfe no table \x00")
    words = [str(table), "model=bert", "lr=lgo(1e-5,1e-3)", "serach.trials=2", "time=soon"]
    with pytest.raises(ConfigError) as caught:
        plan_words([*words, "rank=[4,8]", "rank=[4,16]"])
    for fault in ("did you mean 'log'", "did you mean 'search.trials'", "should be a duration"):
        assert fault in str(caught.value)
    check_space(read_layers(None, ["tile=224", "metrics=[f1]"]), INSTALLED)  # keys of some tasks


def test_a_misspelled_setting_is_not_taken_for_a_key_of_the_data(tmp_path: Path) -> None:
    table = tmp_path / "news.csv"
    table.write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(20)))
    with pytest.raises(ConfigError, match="trails: unknown key; did you mean 'search.trials'"):
        plan_words([str(table), "model=bert", "rank=[4,8]", "trails=3"])
