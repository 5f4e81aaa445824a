"""Local modules of the library `evaluate` as metrics of task.metrics, without a hub."""

from __future__ import annotations

import socket
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import ConfigError
from tasks.metrics.extra_metrics import ExtraMetrics
from tasks.metrics.judged_rows import RowKind, judge
from tasks.metrics.metric_config import MetricConfig

INDEX, FLOAT, TEXT = (f'datasets.Value("{dtype}")' for dtype in ("int64", "float32", "string"))
NAMES = ["a", "b", "c"]
SCORES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
TARGETS = np.array([0, 1, 2])

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def write_module(tmp_path: Path) -> Any:
    """Function that writes a local module whose _compute has the given body and arguments."""

    def write(
        name: str,
        body: str,
        feature: str = INDEX,
        arguments: str = "predictions, references",
    ) -> str:
        folder = tmp_path / name
        folder.mkdir()
        first = arguments.partition(",")[0]
        (folder / f"{name}.py").write_text(
            textwrap.dedent(
                f"""
                import datasets
                import evaluate
                import numpy as np


                class Local(evaluate.Metric):
                    def _info(self):
                        value = {feature}
                        if self.config_name in ("multilabel", "multiclass"):
                            value = datasets.Sequence(value)
                        target = value
                        if "{first}" != "predictions":
                            target = datasets.Value("int64")
                            if self.config_name == "multilabel":
                                target = datasets.Sequence(target)
                        features = {{"{first}": value, "references": target}}
                        return evaluate.MetricInfo(
                            description="", citation="", features=datasets.Features(features)
                        )

                    def _compute(self, {arguments}):
                        {body}
                """
            )
        )
        return str(folder)

    return write


def compute(
    module: str,
    kind: RowKind = "single",
    scores: np.ndarray = SCORES,
    targets: np.ndarray = TARGETS,
    **keys: Any,
) -> dict[str, float]:
    """Compute a module on three rows."""
    names = NAMES[: scores.shape[1]]
    metrics = ExtraMetrics([MetricConfig(name=module, **keys)], kind, names)
    return metrics.compute(judge(kind, names, scores, targets))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Hosts that the test tried to resolve, with the hub in offline mode."""
    import evaluate

    resolved: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> None:
        resolved.append(host)
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", False)
    monkeypatch.setattr(evaluate.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    return resolved


def test_module_runs_from_a_folder_and_from_a_script(write_module: Any) -> None:
    body = 'return {"equal": sum(p == r for p, r in zip(predictions, references))}'
    module = write_module("my_metric", body)
    assert compute(module) == {"my_metric/equal": 2.0}
    assert compute(f"{module}/my_metric.py") == {"my_metric/equal": 2.0}
    assert compute(module, prefix="mine") == {"mine/equal": 2.0}


def test_module_values_may_be_numpy_numbers_arrays_and_bare_numbers(write_module: Any) -> None:
    body = 'return {"n": np.float32(0.5), "z": np.array(2), "each": np.array([1, 2, 3])}'
    expected = {"np_values/n": 0.5, "np_values/z": 2.0}
    expected |= {f"np_values/each/{name}": number for number, name in enumerate(NAMES, start=1)}
    assert compute(write_module("np_values", body)) == expected
    assert compute(write_module("bare", "return 0.25")) == {"bare/bare": 0.25}


def test_module_values_that_are_not_numbers_are_left_out_and_said(write_module: Any) -> None:
    module = write_module("mixed", 'return {"a": 1, "b": "x", "c": {"d": None, "e": 2}}')
    metrics = ExtraMetrics([MetricConfig(name=module)], "single", NAMES)
    assert metrics.names == ["mixed/a", "mixed/c/e"]
    assert metrics.notes == [
        "metrics: mixed/b, mixed/c/d left out, not a number or a number for each label"
    ]


def test_module_gets_probabilities_where_it_reads_them(write_module: Any) -> None:
    mean = 'return {"mean": np.mean(prediction_scores, axis=0)}'
    module = write_module("by_scores", mean, FLOAT, "prediction_scores, references")
    expected = SCORES.mean(axis=0)
    values = [compute(module)[f"by_scores/mean/{name}"] for name in NAMES]
    assert values == pytest.approx(list(expected))
    several = compute(module, "several", targets=np.eye(3)[TARGETS])
    assert several["by_scores/mean/b"] == pytest.approx(expected[1])
    binary = compute(module, scores=SCORES[:, :2], targets=np.array([0, 1, 1]))
    assert binary == {"by_scores/mean": pytest.approx(expected[1])}
    floats = write_module("floats", 'return {"mean": np.mean(predictions)}', FLOAT)
    assert compute(floats, scores=SCORES[:, :2], targets=np.array([0, 1, 1])) == {
        "floats/mean": pytest.approx(expected[1])
    }
    with pytest.raises(ConfigError, match="one probability per row, which fits two labels only"):
        compute(floats)


def test_module_gets_names_where_it_reads_text(write_module: Any) -> None:
    module = write_module("by_name", 'return {"b": predictions.count("b")}', TEXT)
    assert compute(module) == {"by_name/b": 1.0}


def test_module_averages_more_than_two_labels_unless_told_otherwise(write_module: Any) -> None:
    body = 'return {"macro": average == "macro"}'
    module = write_module("f1_like", body, arguments='predictions, references, average="binary"')
    assert compute(module) == {"f1_like/macro": 1.0}
    assert compute(module, average="micro") == {"f1_like/macro": 0.0}
    binary = {"scores": SCORES[:, :2], "targets": np.array([0, 1, 1])}
    assert compute(module, **binary) == {"f1_like/macro": 0.0}


def test_module_of_class_indices_is_refused_for_numbers(write_module: Any) -> None:
    module = write_module("indices", "return 1.0")
    with pytest.raises(ConfigError, match="reads class indices, and these are numbers"):
        ExtraMetrics([MetricConfig(name=module)], "number")


def test_module_that_fails_is_named_before_training(write_module: Any) -> None:
    module = write_module("broken", 'raise ValueError("only text, please")')
    with pytest.raises(ConfigError, match=r"broken.*only text, please"):
        ExtraMetrics([MetricConfig(name=module)], "single", NAMES)
    with pytest.raises(ConfigError, match=r"with \{'avrage': 1\} failed .*'avrage'"):
        ExtraMetrics([MetricConfig(name=module, avrage=1)], "single", NAMES)


def test_local_module_needs_no_network(write_module: Any, no_network: list[Any]) -> None:
    compute(write_module("quiet", 'return {"a": 1}'))
    assert no_network == []


def test_unknown_name_offers_known_ones_and_does_not_query_the_hub_offline(
    no_network: list[Any],
) -> None:
    with pytest.raises(ConfigError, match=r"task\.metrics: .*'recal'.*did you mean 'recall'"):
        ExtraMetrics([MetricConfig(name="recal")], "single", NAMES)
    assert no_network == []
