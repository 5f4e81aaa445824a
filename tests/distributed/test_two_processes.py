"""Two processes compared with one: equal bits where promised, 1e-6 where sums are reordered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from accelerate import PartialState
from safetensors.torch import load_file

from finetune.distributed.launch import this_process
from finetune.errors import ConfigError
from tests.support.lives import LIVES, METHODS, Stop
from tests.support.tiny_detectors import tiny_detector
from tests.support.tiny_models import models_and_data, tiny_gpt2
from tests.support.tiny_scenes import scene_folder
from tests.support.tiny_vision import shape_folder, tiny_timm
from tests.support.two_processes import Case, assert_same_end, difference, launch, result, run_case

# A signal reaches one of the two processes; a kill hits both, as when the machine goes down.
FEW_STOPS = [Stop(1, rank=1), Stop(2, "loading", rank=0), Stop(4, "saved"), Stop(8, "finish")]
ALL_STOPS = [
    Stop(
        stop.step, stop.phase, rank=stop.step % 2 if stop.phase in ("sigterm", "loading") else None
    )
    for stop in LIVES
]
# The method with the most gradients, and the one for which DDP is rebuilt during the run.
DEFAULT_METHODS = ("full", "partial")
STOPPED = [Case(f"{name}-0-fp32", METHODS[name], FEW_STOPS) for name in DEFAULT_METHODS]
PRODUCT = [
    Case(
        f"{name}-{workers}-{precision}",
        {**METHODS[name], "train.workers": workers, "train.precision": precision},
        ALL_STOPS,
    )
    for name, workers, precision in product(METHODS, (0, 2), ("fp32", "bf16"))
]
# 37 rows in steps of 12: the last step has one row, so one process has none.
SMALL_LAST_STEP = {
    "method": "full",
    "optim": "sgd",
    "optim.lr": 0.05,
    "optim.max_grad_norm": 0,
    "data.validation": 0,
    "data.limit": 37,
    "train.epochs": 1,
    "train.batching": "length",  # random batches would be divided further
}
# The rate is lower, so that updates do not magnify the rounding of more and smaller micro-batches.
RANDOM = {**SMALL_LAST_STEP, "train.batching": "random", "optim.lr": 0.005}
WHOLE_DIVIDED = Case("whole-divided", {**RANDOM, "train.micro_batch": 12}, pass_cost=9)
SHARED_DIVIDED = Case("shared-divided", {**RANDOM, "train.micro_batch": 6}, pass_cost=9)
WHOLE = Case("whole", {**SMALL_LAST_STEP, "train.micro_batch": 12}, has_dropout=False)
MICRO = Case("micro", {**SMALL_LAST_STEP, "train.micro_batch": 3}, has_dropout=False)
SHARED = Case("shared", {**SMALL_LAST_STEP, "train.micro_batch": 6}, has_dropout=False)
WHOLE_DROPOUT = Case("whole-dropout", WHOLE.keys)
SHARED_DROPOUT = Case("shared-dropout", SHARED.keys)
LORA = {**SMALL_LAST_STEP, "method": "lora", "method.dropout": 0}
WHOLE_LORA = Case("whole-lora", {**LORA, "train.micro_batch": 12}, has_dropout=False)
SHARED_LORA = Case("shared-lora", {**LORA, "train.micro_batch": 6}, has_dropout=False)
EVEN = {
    **SMALL_LAST_STEP,
    "task.logit_adjustment": 1.0,
    "train.sampling": "balanced",
    "train.group_by": "label",
    "train.group_dro": 0.1,
    "optim.l1_head": 0.01,
    "optim.ema": 0.5,
}
WHOLE_EVEN = Case("whole-even", {**EVEN, "train.micro_batch": 12})
MICRO_EVEN = Case("micro-even", {**EVEN, "train.micro_batch": 3})
SHARED_EVEN = Case("shared-even", {**EVEN, "train.micro_batch": 6})
WRITING = {
    **SMALL_LAST_STEP,
    "task": {
        "name": "text-generation",
        "prompt": "{text}\nTopic:",
        "completion": " {label}",
        "max_length": 128,
    },
}
CACHED = [
    Case(f"frozen-{precision}", {"method": "frozen", "train.precision": precision})
    for precision in ("fp32", "bf16")
]
CACHED.append(Case("contrastive", {"method": "frozen", "method.contrastive": 3}))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models_and_data(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """A language model on packed rows, with different micro-batches."""
    keys = {**WRITING, "model": str(tiny_gpt2(tmp_path_factory.mktemp("gpt2"), dropout=0))}
    sizes = {"writing-whole": 12, "writing-micro": 3, "writing-shared": 6}
    return {
        name: Case(name, {**keys, "train.micro_batch": size}, has_dropout=False)
        for name, size in sizes.items()
    }


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], writing: dict[str, Case]
) -> Path:
    cases = [
        SHARED,
        SHARED_DROPOUT,
        SHARED_LORA,
        SHARED_EVEN,
        SHARED_DIVIDED,
        writing["writing-shared"],
        *CACHED,
        *STOPPED,
    ]
    return launch(cases, tmp_path_factory.mktemp("launch") / "two", models)


@pytest.fixture(scope="module")
def one(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], writing: dict[str, Case]
) -> Path:
    """The same runs, and other micro-batches, in this process alone."""
    out = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(out / "cache"))
        packed = (writing["writing-whole"], writing["writing-micro"])
        for case in (
            WHOLE,
            WHOLE_DROPOUT,
            MICRO,
            WHOLE_LORA,
            WHOLE_EVEN,
            MICRO_EVEN,
            WHOLE_DIVIDED,
            *packed,
            *CACHED,
            *STOPPED,
        ):
            model = models["model" if case.has_dropout else "plain"]
            result = run_case(replace(case, stops=[]), out, model, models["data"])
            (out / f"{case.name}.json").write_text(json.dumps(result))
    return out


@pytest.mark.parametrize("method", DEFAULT_METHODS)
def test_two_processes_resume_bit_for_bit(method: str, two: Path) -> None:
    assert_same_end(two, Case(f"{method}-0-fp32", {}))


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit_with_all_methods(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]
) -> None:
    out = launch(PRODUCT, tmp_path_factory.mktemp("launch") / "all", models)
    for case in PRODUCT:
        assert_same_end(out, case)


def test_gradients_do_not_depend_on_micro_batches_or_processes(one: Path, two: Path) -> None:
    whole = load_file(one / "whole.safetensors")
    assert {name.partition("/")[0] for name in whole} == {"0", "1", "2", "3"}
    assert difference(whole, load_file(one / "micro.safetensors")) < 1e-6
    assert difference(whole, load_file(two / "shared.safetensors")) < 1e-6
    # By default, random batches are divided by length, with dropout.
    divided = load_file(one / "whole-divided.safetensors")
    assert difference(divided, load_file(two / "shared-divided.safetensors")) < 1e-6
    lora = load_file(one / "whole-lora.safetensors")
    assert difference(lora, load_file(two / "shared-lora.safetensors")) < 1e-6


def test_sampling_groups_l1_and_ema_do_not_depend_on_micro_batches_or_processes(
    one: Path, two: Path
) -> None:
    whole = load_file(one / "whole-even.safetensors")
    averages = load_file(one / "whole-even" / "once" / "final" / "model.safetensors")
    for name, folder in (("micro-even", one), ("shared-even", two)):
        assert difference(whole, load_file(folder / f"{name}.safetensors")) < 1e-6
        final = load_file(folder / name / "once" / "final" / "model.safetensors")
        assert difference(averages, final) < 1e-6


def test_gradients_of_packed_rows_do_not_depend_on_micro_batches_or_processes(
    one: Path, two: Path
) -> None:
    """The loss is a mean over the completion tokens of the whole step."""
    whole = load_file(one / "writing-whole.safetensors")
    assert difference(whole, load_file(one / "writing-micro.safetensors")) < 1e-6
    assert difference(whole, load_file(two / "writing-shared.safetensors")) < 1e-6


def test_train_plan_splits_batches_as_the_cases_assume(one: Path, two: Path) -> None:
    """Four micro-batches of 3; two processes with 6 rows each; a last step of one row."""
    sizes = {
        name: [[len(rows) for rows in step] for step in result(folder, name)["seen"]]
        for folder, name in ((one, "whole"), (one, "micro"), (two, "shared"))
    }
    divided = result(one, "whole-divided")["seen"], result(two, "shared-divided")["seen"]
    assert max(map(len, divided[0])) > 1
    assert max(map(len, divided[1])) > 1
    assert sizes == {
        "whole": [[12], [12], [12], [1]],
        "micro": [[3, 3, 3, 3]] * 3 + [[1]],
        "shared": [[6], [6], [6], [1]],  # the first process
    }


@pytest.mark.parametrize("method", DEFAULT_METHODS)
def test_evaluation_on_two_processes_equals_that_of_one(method: str, one: Path, two: Path) -> None:
    """Before training, when weights are equal, so metrics must be exactly equal."""
    first = [result(folder, f"{method}-0-fp32")["history"][0] for folder in (one, two)]
    assert first[0]["step"] == 0
    assert first[0]["split"] == "validation"
    assert first[0] == first[1]
    assert sum(value for key, value in first[0].items() if key.startswith("support/")) == 10


def test_cached_features_of_two_processes_equal_those_of_one(one: Path, two: Path) -> None:
    files = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.bin")}
        for folder in (one / "cache", two / "cache")
    ]
    # Two splits, each in two precisions and from a tuned backbone, whose digest is in the name.
    assert len(files[0]) == 6
    assert files[0] == files[1]


@pytest.mark.parametrize("dropout", ["", "-dropout"])
def test_logged_loss_covers_all_processes(dropout: str, one: Path, two: Path) -> None:
    """The mean over rows does not depend on their distribution, nor do the masks of dropout."""
    losses = [
        [line["loss"] for line in result(folder, name)["history"] if line["split"] == "train"]
        for folder, name in ((one, f"whole{dropout}"), (two, f"shared{dropout}"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_this_process_rejects_processes_that_are_not_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert this_process().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"2 processes were started, but this one sees only 1.*torchrun"
    ):
        this_process()
    assert PartialState().num_processes == 1


@pytest.mark.parametrize(("words", "takes_all"), [((), True), (("--cpu",), False)])
def test_this_process_uses_all_cores_under_accelerate_launch(
    words: tuple[str, ...], takes_all: bool, tmp_path: Path
) -> None:
    """Without --cpu the launcher sets one thread; with --cpu its setting is kept."""
    script = tmp_path / "threads.py"
    script.write_text(
        "import torch\n"
        "from finetune.distributed.launch import this_process\n"
        "torch.set_num_threads(1)\n"
        "this_process()\n"
        "print('threads', torch.get_num_threads())\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", *words, str(script)]
    completed = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    assert f"threads {cores if takes_all else 1}\n" in completed.stdout


def classification_runs(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the keys that all runs share, and {name: further keys} of each run."""
    shared = {
        "task": "image-classification",
        "task.augmentation": "heavy",
        "model": str(tiny_timm(folder / "resnet")),
        "data.source": str(shape_folder(folder / "shapes")),
    }
    return shared, {
        "full": {"method": "full"},
        "lora": {"method": "lora", "method.rank": 2},
        "views": {"method": "frozen", "method.views": 2},
        "live": {"method": "frozen", "method.cache": "off"},
        "bf16": {"method": "full", "train.precision": "bf16"},
    }


def segmentation_runs(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    shared = {
        "task": "segmentation",
        "task.augmentation": "heavy",
        "task.image_size": 32,
        "task.loss": "cross_entropy + dice",
        "model": str(tiny_timm(folder / "resnet")),
        "data.source": str(scene_folder(folder / "scenes")),
    }
    return shared, {
        "full": {"method": "full"},
        "lora": {"method": "lora", "method.rank": 2},
        "views": {"method": "frozen", "method.views": 2},
        "tiles": {"method": "full", "task.image_size": None, "task.tile": 32},
    }


def detection_runs(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    shared = {
        "task": "object-detection",
        "task.augmentation": "heavy",
        "task.image_size": 64,
        "model": str(tiny_timm(folder / "efficientnet", "test_efficientnet")),
        "data.source": str(scene_folder(folder / "scenes")),
    }
    return shared, {
        "full": {"method": "full"},
        "views": {"method": "frozen", "method.views": 2},
        "tiles": {"method": "full", "task.tile": {"size": 32, "overlap": 8}},
        "queries": {"method": "lora", "model": str(tiny_detector(folder / "rt", "rt-detr-v2"))},
    }


@pytest.mark.slow
@pytest.mark.parametrize("runs", [classification_runs, segmentation_runs, detection_runs])
def test_two_processes_resume_image_runs_bit_for_bit(
    runs: Callable[[Path], Any], tmp_path: Path, models: dict[str, Path]
) -> None:
    shared, kinds = runs(tmp_path)
    stops = [Stop(1, rank=1), Stop(2, "loading", rank=0), Stop(3, "log")]
    cases = [
        Case(f"{name}-{workers}", {**shared, **keys, "train.workers": workers}, stops)
        for name, keys in kinds.items()
        for workers in (0, 2)
    ]
    out = launch(cases, tmp_path / "two", models)
    for case in cases:
        assert_same_end(out, case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "kinds"),
    [(segmentation_runs, ("full", "tiles")), (detection_runs, ("full", "queries"))],
)
def test_gradients_of_image_tasks_do_not_depend_on_micro_batches_or_processes(
    runs: Callable[[Path], Any],
    kinds: tuple[str, ...],
    tmp_path: Path,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss terms with counts of their own: Dice, positive locations, matched queries."""
    shared, keys = runs(tmp_path)
    fixed = {"task.augmentation": "none", "method": "full", "method.batch_norm": "freeze"}
    cases = {
        (kind, name): Case(
            f"{kind}-{name}",
            {**shared, **keys[kind], **SMALL_LAST_STEP, **fixed, "train.micro_batch": size},
        )
        for kind in kinds
        for name, size in (("whole", 12), ("micro", 3), ("shared", 6))
    }
    out = tmp_path / "one"
    out.mkdir()
    monkeypatch.setenv("FINETUNE_CACHE", str(out / "cache"))
    for (_, name), case in cases.items():
        if name != "shared":
            run_case(case, out, models["model"], models["data"])
    halves = [case for (_, name), case in cases.items() if name == "shared"]
    two = launch(halves, tmp_path / "two", models)
    for kind in kinds:
        whole = load_file(out / f"{kind}-whole.safetensors")
        first = {name: tensor for name, tensor in whole.items() if name.startswith("0/")}
        for place in (out / f"{kind}-micro", two / f"{kind}-shared"):
            other = load_file(place.with_suffix(".safetensors"))
            other = {name: tensor for name, tensor in other.items() if name.startswith("0/")}
            assert difference(first, other) < 1e-5, place
