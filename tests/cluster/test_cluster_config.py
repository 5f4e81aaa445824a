"""Keys and outputs that a command on a cluster takes or refuses, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.cluster import cluster_config
from finetune.cluster.cluster_config import take_cluster_keys
from finetune.cluster.predict_and_embed import embed, predict
from finetune.errors import ConfigError
from tests.support.command_line import finetune
from tests.tuning.conftest import planned

SPACE = "lr=log(1e-5,1e-3)"


@pytest.fixture
def _with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checks pass that come after the one for Ray."""
    monkeypatch.setattr(cluster_config, "find_spec", lambda name: name)


@pytest.mark.usefixtures("_with_ray")
def test_keys_of_the_cluster_are_taken_out_of_the_words() -> None:
    config, words = take_cluster_keys(["a.csv", "on=ray", "cpus=2", "gpus=0.5", "limit=3"])
    assert (config.on, config.cpus, config.gpus, config.workers) == ("ray", 2, 0.5, None)
    assert words == ["a.csv", "limit=3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["on=spark"], "on: 'spark': should be 'ray'"),
        (["on=ray", "gpus=2"], "gpus: 2: should be less than or equal to 1"),
        (["on=ray", "cpus=0"], "cpus: 0: should be greater than 0"),
        (["cpus=2"], "cpus: has no effect without on=ray; add it, or leave it out"),
        (["workers=2"], "workers: has no effect without on=ray"),
    ],
)
@pytest.mark.usefixtures("_with_ray")
def test_wrong_keys_of_the_cluster_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        take_cluster_keys(words)
    assert message in str(caught.value)


def test_search_refuses_shares_without_a_cluster() -> None:
    with pytest.raises(ConfigError, match=r"search\.gpus: has no effect without search\.on=ray"):
        planned(SPACE, "search.gpus=1")


def test_an_object_store_is_named_by_a_key_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"search\.dir: 's3://b/x': is a URL.* search\.storage"):
        planned(SPACE, "search.dir=s3://b/x")
    with pytest.raises(ConfigError, match=r"search\.storage: has no effect without search\.on=ray"):
        planned(SPACE, "search.storage=s3://b/x")
    with pytest.raises(ConfigError, match=r"search\.storage: 'b/x': should be a URL such as s3://"):
        planned(SPACE, "search.storage=b/x", "search.on=ray")


def test_search_takes_workers_with_and_without_a_cluster() -> None:
    assert planned(SPACE, "search.workers=2").settings.workers == 2
    assert planned(SPACE, "search.workers=2", "search.on=ray", "search.cpus=1").settings.on == "ray"


def test_missing_ray_is_answered_with_the_line_that_installs_it(
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster_config, "find_spec", lambda name: None)
    training = ["task=text-classification", f"model={bert_folder}", f"data={news_csv}", SPACE]
    for command in (
        ["search", *training, "search.on=ray"],
        ["predict", bert_folder, news_csv, "-o", tmp_path / "out.parquet", "on=ray"],
        ["embed", bert_folder, news_csv, "-o", tmp_path / "out.parquet", "on=ray"],
    ):
        assert finetune(*command) == 2
        assert "Ray is not installed; run on every machine: pip install 'finetune-kit[ray]'" in (
            capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"on": "spark"}, "on: 'spark': should be 'ray'"),
        ({"workers": 2}, "workers: has no effect without on=ray"),
        ({"on": "ray", "output": "out.csv"}, "-o out.csv; on=ray writes Parquet"),
        ({"on": "ray", "data": "-"}, "machines cannot share standard input"),
    ],
)
@pytest.mark.usefixtures("_with_ray")
def test_functions_refuse_what_the_commands_refuse(keys: dict[str, Any], message: str) -> None:
    for function in (predict, embed):
        with pytest.raises(ConfigError) as caught:
            function("run", **{"data": "news.csv", "output": "out.parquet"} | keys)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["news.csv"], "-o: missing; on=ray writes Parquet"),
        (["news.csv", "-o", "out.csv"], "-o out.csv; on=ray writes Parquet"),
        (["news.csv", "-o", "."], "-o .: contains news.csv; name a new folder"),
        (["-", "-o", "out"], "machines cannot share standard input"),
        (["news.csv", "--draw", "drawn"], "leave --draw, --as and --safe-csv out"),
    ],
)
@pytest.mark.usefixtures("_with_ray")
def test_predict_refuses_what_machines_cannot_share(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("news.csv").write_text("text\nA text.\n")
    assert finetune("predict", "run", *words, "on=ray") == 2
    assert message in capsys.readouterr().err
