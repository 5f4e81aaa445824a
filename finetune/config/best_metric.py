"""The metric that selects the best checkpoint: its name in train.best, and its direction."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Literal

from finetune.errors import ConfigError, nearest

Direction = Literal["max", "min"]
WORST_GROUP = "worst_group_"
"""Prefix of a metric in the group of rows in which it is worst, under train.group_by."""
LOWER_IS_BETTER = frozenset(
    {
        *("loss", "perplexity", "rmse", "mae", "mse", "mape", "smape", "mase", "nmse"),
        *("log_loss", "brier_score", "hamming_loss", "zero_one_loss"),
        *("wer", "cer", "ter", "mer", "wil", "character", "charcut_mt"),
    }
)
"""Metrics whose lower values are better, by the first part of their names; of others higher ones.

A sign in train.best or the task's own choice takes precedence.
"""


def direction_of(metric: str) -> Direction:
    """Return the direction in which a metric improves, by its name."""
    name = metric.removeprefix(WORST_GROUP).partition("/")[0]
    return "min" if name in LOWER_IS_BETTER else "max"


def selected_metric(
    best: str | None, task_metric: tuple[str, Direction], known: Collection[str] = ()
) -> tuple[str, Direction] | None:
    """Return the metric that selects the checkpoint under train.best, and its direction.

    None for best=last. A metric in its worst group is named worst_group_<metric>. `known` are the
    names of the task's metrics; () if it does not declare them. Raises ConfigError for a name that
    is not among them.
    """
    if best is None or best == task_metric[0]:
        return task_metric
    if best == "last":
        return None
    sign, name = (best[0], best[1:]) if best[0] in "+-" else ("", best)
    if name.startswith(WORST_GROUP):
        whole = selected_metric(sign + name.removeprefix(WORST_GROUP), task_metric, known)
        return whole and (WORST_GROUP + whole[0], whole[1])
    if known and name not in known and name.partition("/")[0] != "loss":
        if f"{name}/{name}" not in known:  # wer, short for the value wer/wer
            raise ConfigError(f"train.best: unknown metric {name!r}; {_offer(name, known)}")
        name = f"{name}/{name}"
    if sign:
        return name, "min" if sign == "-" else "max"
    return task_metric if name == task_metric[0] else (name, direction_of(name))


def best_faults(best: str | None, names: Collection[str]) -> Iterator[str]:
    """Yield the fault of a train.best that is not among `names`, those of a TaskConfig."""
    if not best or best == "last" or not names:
        return
    name = (best[1:] if best[0] in "+-" else best).removeprefix(WORST_GROUP)
    patterns = [re.sub("<[^>]*>", ".+", re.escape(each)) for each in names]
    if name.partition("/")[0] != "loss" and not re.fullmatch("|".join(patterns), name):
        yield f"train.best: unknown metric {name!r}; {_offer(name, names)}"


def _offer(name: str, known: Collection[str]) -> str:
    """Offer the names that begin like `name`, the nearest one, or all.

    Of a group such as f1/<label>, one name stands for all.
    """
    groups: dict[str, str] = {}
    for each in ["loss", *known]:
        first, slash, _ = each.partition("/")
        is_own = each == f"{first}/{first}"  # f1/f1 of task.metrics is no label's
        groups.setdefault(each if is_own else first + slash, each)
    choices = list(groups.values())
    alike = [each for each in choices if each.startswith(name)]
    if len(alike) > 1:
        return f"did you mean {', '.join(map(repr, alike[:-1]))} or {alike[-1]!r}?"
    near = nearest(name, choices)
    return near if near.startswith("did you mean") else f"choose from: {', '.join(choices)}"
