"""The feature cache: hits only for identical inputs and settings, and features equal to live ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.batching import row_cache as cache
from finetune.batching.feature_files import cache_root
from finetune.distributed.devices import to_device
from finetune.errors import ModelError
from finetune.training import run
from tasks.text.text_models import NativeTextModel, PooledTextModel
from tasks.text_classification import TextClassification
from tests.support.lives import Killed, Seen, Stop, live, load, watched
from tests.support.tiny_models import text_csv, text_rows, tiny_bert

FROZEN = {"method": "frozen", "task.pooling": "mean"}


@pytest.fixture(autouse=True)
def temporary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches whose features were computed."""
    sizes: list[int] = []
    for kind in (PooledTextModel, NativeTextModel):
        original = kind.features

        def features(
            self: Any, inputs: Mapping[str, Tensor], original: Any = original
        ) -> dict[str, Tensor]:
            sizes.append(len(inputs["input_ids"]))
            return original(self, inputs)  # type: ignore[no-any-return]

        monkeypatch.setattr(kind, "features", features)
    return sizes


def train(folder: Path, model: Path, data: Path, **keys: Any) -> None:
    loaded = load(folder, model, data, {**FROZEN, **keys})
    assert live(loaded, stop=Stop(8, "finish")) is None


@pytest.mark.parametrize("head", ["pooled", "native"])
@pytest.mark.parametrize("network", ["bert", "gpt2"])
def test_cache_stores_features_equal_to_live_ones(
    head: str,
    network: str,
    gpt2_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_pooler = tiny_bert(tmp_path / "bert", pooler=True)
    model_folder = {"bert": with_pooler, "gpt2": gpt2_folder}[network]
    checked = []

    def compare(live: Any, *_: Any) -> None:
        split, task, model = live.train, live.task, live.model.eval()
        if split.features is None:  # no cache for heads that read more than one vector per row
            raise Killed
        for start in range(0, len(split), 7):
            indices = list(range(start, min(start + 7, len(split))))
            samples = [task.encode(row) for row in split.rows.__getitems__(indices)]
            inputs = to_device(task.collate(samples), live.accelerator.device)["inputs"]
            with torch.inference_mode():
                fresh = model.features(inputs)
            for name, values in split.features.take(indices).items():
                checked.append(float((values - fresh[name]).abs().max()))
        raise Killed

    monkeypatch.setattr(run, "fit", compare)
    keys = {"method": "frozen", "task.head": head, "train.precision": "fp32"}
    live(load(tmp_path / "run", model_folder, news_csv, keys))
    assert max(checked, default=0) < 1e-5
    assert checked or (head, network) == ("native", "gpt2")


@pytest.mark.parametrize("head", ["pooled", "native"])
def test_cache_trains_the_same_weights_as_live_features(
    head: str, news_csv: Path, tmp_path: Path
) -> None:
    """Including dropout: the backbone is in evaluation mode in both cases."""
    model = tiny_bert(tmp_path / "bert", pooler=True)
    trained = []
    for name in ("auto", "off"):
        keys = {"task.pooling": None, "task.head": head, "method.cache": name}
        with watched() as network:
            train(tmp_path / name, model, news_csv, **keys)
        trained.append({name: network.after[name] for name in network.trained})
    cached, uncached = trained
    assert cached.keys() == uncached.keys()
    assert all(torch.allclose(cached[name], uncached[name], atol=1e-5) for name in cached)


def test_cache_is_reused_by_a_second_run(
    computed: list[int], bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    train(tmp_path / "first", bert_folder, news_csv)
    assert sum(computed) == 50
    computed.clear()
    train(tmp_path / "second", bert_folder, news_csv, **{"train.seed": 5, "optim.lr": 0.1})
    assert computed == []


def test_cache_computes_every_row_once_in_fixed_blocks(
    computed: list[int], bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    train(tmp_path, bert_folder, news_csv, **{"train.batch_size": 7})
    assert computed == [16, 16, 8, 10]  # train 40, validation 10


CHANGES: dict[str, dict[str, Any]] = {
    "max_length": {"task.max_length": 10},
    "truncation": {"task.max_length": 10, "task.truncation": "tail"},
    "pooling": {"task.pooling": "cls"},
    "precision": {"train.precision": "bf16"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_cache_misses_after_a_change_of_settings(
    change: str, computed: list[int], bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    train(tmp_path / "first", bert_folder, news_csv, **{"task.max_length": 12})
    computed.clear()
    train(tmp_path / "second", bert_folder, news_csv, **{"task.max_length": 12, **CHANGES[change]})
    assert sum(computed) == 50


def test_cache_misses_after_a_change_of_weights(
    computed: list[int], news_csv: Path, tmp_path: Path
) -> None:
    model = tiny_bert(tmp_path / "bert")
    train(tmp_path / "first", model, news_csv)
    file = model / "model.safetensors"
    tensors = load_file(file)
    name = "bert.encoder.layer.0.output.dense.bias"
    tensors[name] = tensors[name].clone()
    tensors[name][3] += 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    computed.clear()
    train(tmp_path / "second", model, news_csv)
    assert sum(computed) == 50


def test_cache_misses_after_a_change_of_texts(
    computed: list[int], bert_folder: Path, tmp_path: Path
) -> None:
    data = text_csv(tmp_path / "news.csv")
    train(tmp_path / "first", bert_folder, data)
    computed.clear()
    first = text_rows()[0]["text"]
    data.write_text(data.read_text().replace(first, first.replace(" ", " the ", 1)))
    train(tmp_path / "second", bert_folder, data)
    assert sum(computed) in (40, 10)  # the other split is unchanged


def test_cache_ignores_a_build_that_was_killed(
    computed: list[int],
    temporary_cache: Path,
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, remaining = cache.to_device, [1]

    def killed(*arguments: Any) -> Any:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise Killed
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "to_device", killed)
        assert live(load(tmp_path / "run", bert_folder, news_csv, FROZEN)) is None
    assert not list(temporary_cache.glob("*/manifest.json"))
    computed.clear()
    train(tmp_path / "run", bert_folder, news_csv)
    assert sum(computed) == 50


def test_cache_allows_two_runs_to_build_the_same_features_at_once(
    temporary_cache: Path, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """A run that starts must not disturb another that is in the middle of its build."""
    original, seen = cache._Encoder.batch, Seen()
    batches = []

    def interrupting(self: Any, indices: Any) -> Any:
        batches.append(indices)
        if len(batches) == 2:
            train(tmp_path / "inner", bert_folder, news_csv)
        return original(self, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache._Encoder, "batch", interrupting)
        loaded = load(tmp_path / "outer", bert_folder, news_csv, FROZEN)
        assert live(loaded, seen=seen, stop=Stop(8, "finish")) is None
    outer = seen.steps
    other = Seen()
    loaded = load(tmp_path / "third", bert_folder, news_csv, FROZEN)
    assert live(loaded, seen=other, stop=Stop(8, "finish")) is None
    assert other.steps == outer
    assert not [path for path in temporary_cache.iterdir() if "partial" in path.name]


def test_cache_computes_damaged_features_again(
    computed: list[int],
    temporary_cache: Path,
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ends = []
    for name, rows in (("first", 50), ("second", 0), ("third", 40)):
        computed.clear()
        with watched() as network:
            train(tmp_path / name, bert_folder, news_csv)
        ends.append(network.after)
        assert sum(computed) == rows
        largest = max(temporary_cache.rglob("*.bin"), key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[5] ^= 4
        if name == "second":
            largest.write_bytes(data)
    assert "computed again, since those in the cache were damaged: pooled.bin" in (
        capsys.readouterr().out
    )
    assert all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_cache_on_a_full_disk_is_a_message_and_leaves_no_build(
    small_disk: Path, bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(small_disk))
    (small_disk / "other").write_bytes(bytes(2**20 - 20_000))
    with pytest.raises(ModelError, match=r"cannot write the features .*No space.*FINETUNE_CACHE"):
        live(load(tmp_path / "run", bert_folder, news_csv, FROZEN))
    assert not list((small_disk / "features").glob("*.partial"))


def test_cache_rejects_features_over_its_size_limit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {**FROZEN, "method.cache_gib": 1e-7}
    with pytest.raises(
        ModelError, match=r"method.cache_gib: .*raise method.cache_gib, or set method"
    ):
        live(load(tmp_path, bert_folder, news_csv, keys))


def test_cache_root_follows_the_environment_variable(temporary_cache: Path) -> None:
    assert cache_root() == temporary_cache


def test_stored_features_take_each_row_from_the_view_of_its_turn() -> None:
    """Under balanced sampling, a row repeated within an epoch must be augmented differently."""
    views = [{"pooled": torch.arange(3.0) + 10 * view} for view in range(2)]
    stored = cache.StoredFeatures(views, [{}] * 3)
    assert stored.take([2, 0, 2], [0, 3, 1])["pooled"].tolist() == [2, 10, 12]
    assert stored.take([2, 0], [4, 6])["pooled"].tolist() == [2, 0]
    assert stored.take([1])["pooled"].tolist() == [1]


def test_cache_encodes_each_row_once_if_memory_allows(
    temporary_cache: Path,
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[str] = []
    original = TextClassification.encode

    def counted(self: Any, row: Any, rng: Any = None) -> Any:
        encoded.append(row["text"])
        return original(self, row, rng)

    monkeypatch.setattr(TextClassification, "encode", counted)
    train(tmp_path / "roomy", bert_folder, news_csv, **{"data.validation": 0})
    rows = len(set(encoded))
    assert len(encoded) <= rows + 8, "each once, plus a few for the reload check"
    encoded.clear()
    monkeypatch.setattr(cache, "KEPT_BYTES", 0)
    other = {"data.validation": 0, "task.max_length": 16}
    train(tmp_path / "tight", bert_folder, news_csv, **other)
    assert len(encoded) >= 2 * rows
