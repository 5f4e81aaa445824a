"""Trials as tasks of a Ray cluster whose machines share an object store and no folder.

One process, the keeper, has the study, and its journal lies in the store. Every machine trains in a
folder of its own: a trial's files are fetched before it, and sent after each checkpoint.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from finetune.cluster.ray_cluster import connected
from finetune.cluster.repeated_tasks import RepeatedTasks
from finetune.cluster.stored_folder import StoredFolder
from finetune.errors import ConfigError, FinetuneError
from finetune.io.files import cache_folder, remove_path
from finetune.reporting.console import Console
from finetune.search_space.search_plan import SearchPlan
from finetune.tuning.cluster_trials import check_is_named, count_left, end_of, training_here, until
from finetune.tuning.journal_file import JOURNAL
from finetune.tuning.search_folder import RECORD, SearchFolder
from finetune.tuning.study import (
    SearchStudy,
    TrialLength,
    TrialRecord,
    best_of,
    check_optuna,
)
from finetune.tuning.trial_training import TrialTraining
from finetune.tuning.trials import TrialRunner

_NAMESPACE = "finetune"
_SECONDS_TO_LEAVE = 30
"""Time after which the keeper of a command that was killed is gone."""
_LARGE = ("checkpoints", "final")
_KEEPER = "keeper"


def begin_in_store(training: TrialTraining, url: str) -> None:
    """Send a search that the store does not have, or check that it has the same one.

    Raises ConfigError for what machines cannot share, and CheckpointError.
    """
    check_is_named(training)
    stored = StoredFolder(training.folder.path, url)
    is_known = stored.pull(RECORD)
    training.folder.check_same(training.plan)
    if not is_known:
        stored.push("")  # with the trials of earlier starts without a store


def run_in_store(training: TrialTraining, url: str, console: Console) -> None:
    """Run trials until none is left, finish the best one, and fetch the results.

    Raises FinetuneError, and Interrupted.
    """
    plan, folder = training.plan, training.folder
    stored, end = StoredFolder(folder.path, url), end_of(plan)
    with connected(plan.settings, console) as cluster:
        study = _start_keeper(plan, url)
        tasks = RepeatedTasks(cluster, None, console)

        def count_unfinished() -> int:
            best = best_of(study.records())
            if best is None:
                return 0
            stored.pull(f"{folder.trial(best.number).name}/results.json")
            return int(not training.is_finished(best.number))

        tasks.run(
            _run_trial,
            (plan, url, end, study),
            lambda: count_left(study.records(), plan, end),
            study.choose,
        )
        tasks.run(_finish_best, (plan, url, study), count_unfinished)
        records = study.records()
    _fetch_results(stored, folder, records)


def send_results(folder: SearchFolder, url: str) -> None:
    """Send the results that the command has written: best.yaml, the table and the plots."""
    stored = StoredFolder(folder.path, url)
    for path in folder.path.iterdir():
        if path.suffix in (".yaml", ".parquet", ".png"):
            stored.push(path.name)


def _fetch_results(stored: StoredFolder, folder: SearchFolder, records: list[TrialRecord]) -> None:
    """Fetch the best trial, and of the others all but their weights."""
    best = best_of(records)
    for name in (JOURNAL, "measured", "logs"):
        stored.pull(name)
    for record in records:
        without = () if best is not None and record.number == best.number else _LARGE
        stored.pull(folder.trial(record.number).name, without=without)


class _Keeper:
    """Actor of Ray that has the study. Restarted on another machine, it goes on from the store."""

    def __init__(self, plan: SearchPlan, url: str) -> None:
        self._plan = plan
        self._url = url

    @cached_property
    def _stored(self) -> StoredFolder:
        return StoredFolder(_place(self._url) / _KEEPER, self._url)

    @cached_property
    def _study(self) -> SearchStudy:
        check_optuna()
        remove_path(self._stored.folder)
        self._stored.folder.mkdir(parents=True)
        self._stored.pull(JOURNAL)
        return SearchStudy(self._stored.folder, self._plan)

    def records(self) -> list[TrialRecord]:
        return self._study.records()

    def choose(self, taken: Collection[int]) -> TrialRecord | None:
        """Return a trial that has not ended and is not one of `taken`; None if there is none."""
        records = self._study.records()
        for record in records:
            if record.state == "running" and record.number not in taken:
                return record
        if len(records) >= self._plan.trials:
            return None
        with self._sent():
            return self._study.ask()

    def report(self, number: int, evaluation: int, score: float, length: TrialLength) -> bool:
        with self._sent():
            return self._study.report(number, evaluation, score, length)

    def end(self, number: int, how: str, *arguments: Any) -> None:
        """Record the end of a trial, once: a call is repeated if its answer was lost."""
        if self._study.records()[number].state == "running":
            with self._sent():
                getattr(self._study, how)(number, *arguments)

    @contextmanager
    def _sent(self) -> Iterator[None]:
        yield
        self._stored.push(JOURNAL)


class _RemoteStudy:
    """The study as other processes have it: calls of the keeper."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def records(self) -> list[TrialRecord]:
        records: list[TrialRecord] = self._call("records")
        return records

    def choose(self, taken: list[TrialRecord]) -> TrialRecord | None:
        record: TrialRecord | None = self._call("choose", [each.number for each in taken if each])
        return record

    def report(self, number: int, evaluation: int, score: float, length: TrialLength) -> bool:
        return bool(self._call("report", number, evaluation, score, length))

    def complete(self, number: int, seconds: float, scores: list[float]) -> None:
        self._call("end", number, "complete", seconds, scores)

    def prune(self, number: int, seconds: float) -> None:
        self._call("end", number, "prune", seconds)

    def fail(self, number: int, seconds: float, reason: str) -> None:
        self._call("end", number, "fail", seconds, reason)

    def _call(self, name: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import RayTaskError

        try:
            return ray.get(getattr(self._keeper, name).remote(*arguments))
        except RayTaskError as error:
            if isinstance(error.cause, FinetuneError):
                raise error.cause from None
            raise


def _start_keeper(plan: SearchPlan, url: str) -> _RemoteStudy:
    """Start the keeper on the machine of the command if it can, and on another one if that is lost.

    Raises ConfigError if another command of this cluster has the place.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"name": _digest(url), "namespace": _NAMESPACE, "num_cpus": 0}
    options |= {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    deadline = time.monotonic() + _SECONDS_TO_LEAVE
    while True:
        try:
            return _RemoteStudy(ray.remote(_Keeper).options(**options).remote(plan, url))
        except ValueError as error:  # the name is taken
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"search.storage: another search of this cluster runs in {url}; wait for it, "
                    "or name another place"
                ) from error
            time.sleep(1)


def _run_trial(
    plan: SearchPlan, url: str, end: float, study: _RemoteStudy, record: TrialRecord | None
) -> str:
    """Run a trial in a process of a cluster; return what it printed."""
    if record is None:  # other tasks have the last trials
        time.sleep(1)
        return ""
    folder = SearchFolder(_place(url))
    stored = StoredFolder(folder.path, url)
    names = _names(folder, plan, record.number)
    for name in names:
        remove_path(folder.path / name)
        stored.pull(name)

    def keep(number: int) -> None:
        for name in names:
            stored.push(name)

    folder.begin(plan)
    training = training_here(until(plan, end), folder)
    with StringIO() as text:
        TrialRunner(training, Console(file=text), study, keep).run(record)
        _remove(folder, names)
        return text.getvalue().rstrip()


def _finish_best(plan: SearchPlan, url: str, study: _RemoteStudy) -> str:
    """Finish the best trial in a process of a cluster."""
    best = best_of(study.records())
    assert best is not None, "counted before"
    folder = SearchFolder(_place(url))
    stored = StoredFolder(folder.path, url)
    names = _names(folder, plan, best.number)
    for name in names:
        stored.pull(name)
    folder.begin(plan)
    training_here(plan, folder).finish(best.number, best.values)
    for name in names:
        stored.push(name)
    _remove(folder, names)
    return ""


def _names(folder: SearchFolder, plan: SearchPlan, number: int) -> list[str]:
    """Return the files and folders of a trial; the run of the first seed comes last."""
    seeds = range(plan.settings.seeds)
    paths = [folder.log(number), *(folder.measured(number, seed) for seed in seeds)]
    paths += [folder.trial(number, seed) for seed in reversed(seeds)]
    return [path.relative_to(folder.path).as_posix() for path in paths]


def _remove(folder: SearchFolder, names: list[str]) -> None:
    for name in names:
        remove_path(folder.path / name)


def _place(url: str) -> Path:
    """Return the folder of this machine in which trials are trained."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return cache_folder("search") / _digest(url) / node


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]
