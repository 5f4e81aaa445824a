"""Work on the rows that several runs of one process have in common, such as trials of a search."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from finetune.task import Task

_Result = TypeVar("_Result")


class SharedRows:
    """Results of opening, checking and measuring rows, and what tasks learned from them."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Any, dict[str, Any]]] = {}

    def once(self, key: Hashable, task: Task, work: Callable[[], _Result]) -> _Result:
        """Return the result of `work`, done once for each key.

        `key` must hold all that the result depends on. A task of equal config that comes later gets
        the attributes that `work` gave to the first one.
        """
        if key not in self._known:
            result = work()
            self._known[key] = result, {k: v for k, v in vars(task).items() if k != "config"}
            return result
        result, attributes = self._known[key]
        vars(task).update(attributes)
        return result
