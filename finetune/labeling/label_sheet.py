"""The sheet that people fill in: a line for each suggested row, with an empty cell for a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import ConfigError
from finetune.io.table_writer import open_writer
from finetune.labeling.pool import Pool, target_columns
from finetune.task import Task
from finetune.task_parts.samples import Row, take_rows

ROW, SUGGESTED, UNCERTAINTY = "row", "suggested_label", "uncertainty"


def write_sheet(path: Path, pool: Pool, chosen: np.ndarray, task: Task) -> list[Row]:
    """Write the rows `chosen` of the pool to `path`, most useful first; return the lines."""
    uncertainty = pool.uncertainty
    lines: list[Row] = []
    for index, row in zip(chosen.tolist(), take_rows(pool.table, chosen.tolist()), strict=True):
        line: Row = {ROW: pool.numbers[index]}
        if uncertainty is not None:
            label = pool.predictions[index]["label"]
            line[SUGGESTED] = "; ".join(label) if isinstance(label, list) else label
            line[UNCERTAINTY] = round(float(uncertainty[index]), 4)
        line |= dict.fromkeys(target_columns(task), "")
        line |= {name: _cell(row[name], path) for name in task.rows.inputs}
        lines.append(line)
    with open_writer(path) as write:
        write(lines)
    return lines


def _cell(value: Any, path: Path) -> Any:
    """Return a cell as it can be read back from the sheet: an image as the path of its file."""
    if not isinstance(value, dict) or path.suffix.lower() == ".parquet":
        return value
    if value.get("bytes") is None and isinstance(value.get("path"), str):
        return str(Path(value["path"]).absolute())
    raise ConfigError(
        f"-o {path}: the images of the pool are inside of its table, and {path.suffix} cannot hold "
        "them; write .parquet instead"
    )
