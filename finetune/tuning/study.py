"""The trials of a search in Optuna: a journal in the folder of the search, samplers and pruners.

The values of a trial are a function of the seed, its number and the journal alone, so a search that
was stopped goes on with the trials that it would have had. A trial enters the journal whole, with
all of its values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.errors import ConfigError
from finetune.search_space.search_plan import METHOD, SearchPlan
from finetune.search_space.space import Choice, Values
from finetune.tuning.journal_file import open_journal

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

INSTALL = "pip install 'finetune-kit[search]'"
REDUCTION = 3
"""ASHA keeps the best trial in this many on each rung, which is this many times as long as the one
before."""
_NAME = "search"
_DIGITS = 4  # significant digits of sampled numbers, so that they can be typed
# Attributes of trials in the journal.
_KEPT, _REASON, _SECONDS, _SEEDS = "kept", "reason", "seconds", "seeds"
State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the journal has it.

    Attributes:
        values: {key: value} of the space.
        score: of the selected checkpoint, or of a pruned trial's last evaluation.
        evaluations: {number of the evaluation, from 1: its score}.
        seconds: that it took, without earlier starts of the search that did not end it.
        scores: of each seed, if there are several.
        reason: why it failed.
    """

    number: int
    state: State
    values: dict[str, Any]
    score: float | None = None
    evaluations: dict[int, float] = field(default_factory=dict)
    seconds: float | None = None
    scores: tuple[float, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class TrialLength:
    """How long a trial is, in evaluations.

    Attributes:
        grace: evaluations before it may be pruned.
    """

    evaluations: int
    grace: int = 1


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the best complete trial, the first of equal ones; None if there is none."""
    ranked = [
        (r.score, -r.number, r) for r in records if r.state == "complete" and r.score is not None
    ]
    return max(ranked)[2] if ranked else None


def check_optuna() -> None:
    """Raise ConfigError if Optuna is missing."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"search: needs Optuna ({error}); {INSTALL}") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class SearchStudy:
    """The study of one search. Scores are larger for better trials, whatever the metric."""

    def __init__(self, folder: Path, plan: SearchPlan) -> None:
        import optuna

        self.plan = plan
        storage, self._lock = open_journal(folder)
        never_asked = optuna.samplers.RandomSampler()
        try:
            self._study = optuna.load_study(study_name=_NAME, storage=storage, sampler=never_asked)
        except KeyError:
            self._study = optuna.create_study(
                study_name=_NAME,
                storage=storage,
                direction="maximize",
                sampler=never_asked,
                load_if_exists=True,
            )

    def records(self) -> list[TrialRecord]:
        return [_record(trial) for trial in self._study.get_trials(deepcopy=False)]

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes, also on other machines, from choosing a trial meanwhile."""
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def ask(self) -> TrialRecord:
        """Sample the values of the next trial and add it to the journal."""
        trials = self._study.get_trials()
        with _silence():
            # Sampled in a copy: one record then holds the whole trial, whenever the process ends.
            copy = self._copy(trials, _make_sampler(self.plan, number=len(trials)))
            self._suggest(copy.ask())
        drawn = copy.trials[-1]
        drawn.params = {
            name: _rounded(value, drawn.distributions[name]) for name, value in drawn.params.items()
        }
        self._study.add_trial(drawn)
        return _record(self._study.get_trials(deepcopy=False)[-1])

    def report(self, number: int, evaluation: int, score: float, length: TrialLength) -> bool:
        """Record an evaluation of a trial, from 1; True if the trial should stop.

        A resumed run may report again; the answer is then the same.
        """
        trial, frozen = self._trial(number)
        kept = frozen.user_attrs.get(_KEPT, {"evaluation": 0, "marks": []})
        if evaluation <= kept["evaluation"]:
            return False
        if evaluation not in frozen.intermediate_values:
            trial.report(score, evaluation)
        # Decided in a copy without the marks of a decision that was not carried out: the pruner
        # would take the trial for one that it has kept, and count its score twice.
        trials = self._study.get_trials()
        own = trials[number]
        own.system_attrs = {k: v for k, v in own.system_attrs.items() if k in kept["marks"]}
        copy = self._copy(trials)
        pruner = make_pruner(self.plan.settings.pruner, length)
        is_pruned = evaluation >= length.grace and pruner.prune(copy, copy.get_trials()[number])
        marks = copy.get_trials()[number].system_attrs
        for key, value in marks.items():
            trial.storage.set_trial_system_attr(trial._trial_id, key, value)
        if not is_pruned:
            trial.set_user_attr(_KEPT, {"evaluation": evaluation, "marks": [*marks]})
        return is_pruned

    def complete(self, number: int, seconds: float, scores: list[float]) -> None:
        """End a trial with the scores of its seeds, whose mean ranks it."""
        facts = {_SECONDS: seconds, **({_SEEDS: scores} if len(scores) > 1 else {})}
        self._end(number, "COMPLETE", facts, sum(scores) / len(scores))

    def prune(self, number: int, seconds: float) -> None:
        self._end(number, "PRUNED", {_SECONDS: seconds})

    def fail(self, number: int, seconds: float, reason: str) -> None:
        self._end(number, "FAIL", {_SECONDS: seconds, _REASON: reason})

    def _end(
        self, number: int, state: str, facts: Mapping[str, Any], score: float | None = None
    ) -> None:
        from optuna.trial import TrialState

        trial, _ = self._trial(number)
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, score, TrialState[state])

    def importances(self) -> dict[str, float]:
        """Return the share of each key in the variation of the scores, largest first.

        {} if fewer than four trials are complete, or if their scores are equal.
        """
        from optuna.importance import get_param_importances

        scores = [each.score for each in self.records() if each.state == "complete"]
        if len(scores) < 4 or len(set(scores)) < 2:
            return {}
        with _silence():
            return get_param_importances(self._study)

    def _suggest(self, trial: Trial) -> None:
        """Suggest the method first: the other keys depend on it."""
        plan, method = self.plan, self.plan.methods[0]
        for key, values in plan.space.items():
            if plan.names[key] == METHOD:
                method = str(_suggest_value(trial, key, values))
        for key, values in plan.asked(method).items():
            _suggest_value(trial, key, values)

    def _copy(self, trials: list[FrozenTrial], sampler: BaseSampler | None = None) -> Study:
        """Return a copy in memory, which is asked with `sampler`."""
        import optuna

        with _silence():
            copy = optuna.create_study(study_name=_NAME, direction="maximize", sampler=sampler)
        copy.add_trials(trials)
        return copy

    def _trial(self, number: int) -> tuple[Trial, FrozenTrial]:
        from optuna.trial import Trial

        frozen = self._study.get_trials()[number]
        return Trial(self._study, frozen._trial_id), frozen


def _suggest_value(trial: Trial, key: str, values: Values) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, values.values)
    if values.is_whole:
        low, high, step = int(values.low), int(values.high), int(values.step or 1)
        return trial.suggest_int(key, low, high, step=step, log=values.log)
    return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    """Round a sampled number, within its bounds."""
    from optuna.distributions import FloatDistribution

    if not isinstance(distribution, FloatDistribution):
        return value
    digits = _DIGITS if distribution.step is None else 10
    return min(max(float(f"{value:.{digits}g}"), distribution.low), distribution.high)


def _make_sampler(plan: SearchPlan, number: int) -> BaseSampler:
    from optuna import samplers

    # A sampler of its own for each trial: its random state does not depend on earlier draws.
    seed = (plan.settings.seed + 1_000_003 * number) % 2**32
    makers: dict[str, Callable[..., BaseSampler]] = {
        "grid": samplers.BruteForceSampler,
        "random": samplers.RandomSampler,
        "tpe": samplers.TPESampler,
        "gp": samplers.GPSampler,
        "cmaes": samplers.CmaEsSampler,
    }
    return makers[plan.sampler](seed=seed)


def make_pruner(name: str, length: TrialLength) -> BasePruner:
    """Create the pruner for a trial of this length."""
    from optuna import pruners

    grace = length.grace
    if name == "asha":
        return pruners.SuccessiveHalvingPruner(grace, REDUCTION)
    if name == "hyperband":
        with _silence():
            return pruners.HyperbandPruner(grace, max(length.evaluations, grace), REDUCTION)
    return pruners.MedianPruner() if name == "median" else pruners.NopPruner()


def _record(trial: FrozenTrial) -> TrialRecord:
    states: Mapping[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return TrialRecord(
        trial.number,
        states.get(trial.state.name, "running"),
        dict(trial.params),
        trial.value,
        dict(trial.intermediate_values),
        trial.user_attrs.get(_SECONDS),
        tuple(trial.user_attrs.get(_SEEDS, ())),
        trial.user_attrs.get(_REASON, ""),
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress warnings of Optuna that its samplers are new, or its steps uneven."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
