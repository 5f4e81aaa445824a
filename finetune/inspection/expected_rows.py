"""Rows that a run will add to train once features are computed, as far as they are known before."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.batching.data_loader import measure_split
from finetune.data.opening import Splits
from finetune.errors import format_count
from finetune.reporting.run_facts import AddedRows
from finetune.semisupervised.held_out_check import ACCEPTED
from finetune.semisupervised.unlabeled_rows import computed_views
from finetune.training.setup import Prepared, check_semi, total_steps


@dataclass(frozen=True)
class ExpectedRows:
    """Rows that will join train.

    Attributes:
        note: what they are, for people.
        steps: number of steps of the run with them.
        length: of all rows whose features are computed for them, in the unit of the task.
    """

    note: str
    steps: int
    length: int = 0


def expect_rows(prepared: Prepared, splits: Splits) -> ExpectedRows | None:
    """Return the rows that the config asks for; None if it does not.

    Raises the ConfigError that training would.
    """
    config, task = prepared.live.config.train, prepared.live.task
    if config.semi is not None:
        check_semi(prepared.live)
        assert splits.unlabeled is not None, "checked with the config"
        pool, _, _ = measure_split("unlabeled", splits.unlabeled, task)
        count = round(ACCEPTED * len(pool))
        steps = _steps(prepared, count)
        note = (
            f"about {count} of {format_count(len(pool), 'unlabeled row')} with pseudo-labels "
            f"(train.semi={config.semi}), if these pass their check: {format_count(steps, 'step')} "
            "then"
        )
        length = int(pool.lengths.sum()) * computed_views(config.semi, task)
        return ExpectedRows(note, steps, length)
    if config.synthetic is not None:
        key = f"train.synthetic={config.synthetic}"
        sizes = prepared.labels["train"].counts
        missing = {label: max(sizes.values()) - size for label, size in sizes.items()}
        added = AddedRows(
            "synthetic", key, {name: count for name, count in missing.items() if count}
        )
        steps = _steps(prepared, added.total)
        note = f"{added}: {format_count(steps, 'step')} with them"
        if not added.total:
            note = f"no synthetic rows ({key}): all classes have the same size"
        return ExpectedRows(note, steps)
    return None


def _steps(prepared: Prepared, added: int) -> int:
    live = prepared.live
    steps_per_epoch = -(-(len(live.train) + added) // live.plan.batch_size)
    return total_steps(live.config, live.method, steps_per_epoch)
