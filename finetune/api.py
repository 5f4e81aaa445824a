"""Python interface: train with keyword arguments and inspect the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checks.data_check import check_data
from finetune.config.loading import (
    ConfigRegistry,
    Layer,
    Loaded,
    merge_layers,
    read_layers,
)
from finetune.config.schema import DataConfig, TaskConfig
from finetune.data.readers import holds_splits
from finetune.data.source import make_source, take_report_keys
from finetune.errors import ConfigError
from finetune.export.exporters import find_exporter
from finetune.export.hub import push
from finetune.inference.batch_predict import predict_rows
from finetune.inference.prediction_outputs import Destination
from finetune.inference.predictor import Predictor, load
from finetune.inspection.dry_run import Inspection, inspect_run
from finetune.io.run_folder import RunFolder
from finetune.registry import INSTALLED, make_task
from finetune.reporting.comparison import compare_runs
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import overall
from finetune.reports.evaluate_rows import GroupedMetrics, evaluate
from finetune.task import Task
from finetune.task_parts.rows import Finding
from finetune.training.run import run

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from finetune.audit.report_run import Report

_SPLITS = frozenset({"train", "validation", "test"})


class Run:
    """A finished run: its metrics, its history and its final model."""

    def __init__(self, path: str | Path, *, trust_code: bool = False) -> None:
        """Open a run; with `trust_code`, code that its files name runs (see `finetune.load`)."""
        self.folder = RunFolder(Path(path))
        self.trust_code = trust_code
        self.folder.read("results.json")  # rejects a folder without a finished run right away

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of the final model, {split: {metric: value}}."""
        metrics: dict[str, dict[str, float]] = self.folder.read("results.json")["metrics"]
        return metrics

    def history(self) -> pandas.DataFrame:
        """Return a table with one row per logged step and per evaluation."""
        import pandas

        return pandas.DataFrame(self.folder.history())

    @cached_property
    def predictor(self) -> Predictor:
        """The final model, loaded on first access."""
        return load(self.path, trust_code=self.trust_code)

    def predict(self, rows: Any, batch_size: int = 32, **keys: Any) -> list[Any]:
        """Return one prediction per row, given as dicts, a table, bare texts, a file or folder.

        `keys` override task keys that affect predictions (text="review"), as in `finetune.load`.
        """
        predictor = load(self.path, trust_code=self.trust_code, **keys) if keys else self.predictor
        return predictor(rows, batch_size)

    def evaluate(self, data: Any, batch_size: int = 32, **keys: Any) -> GroupedMetrics:
        """Compute the metrics of the final model on labeled rows; see `finetune.evaluate`.

        `by="source"` adds the metrics of the rows with each value of a column, `slices` and
        `groups` compare parts of the rows.
        """
        trust = {"trust_code": self.trust_code}
        return evaluate(self.path, data, batch_size=batch_size, **(trust | keys))

    def draw(self, data: Any, folder: str | Path, batch_size: int = 32, **keys: Any) -> list[Path]:
        """Draw the predictions of rows into image files in `folder`; return their paths.

        `data` is a folder of images, a pattern such as "photos/*.jpg", a table, or a list of rows
        or image paths. `keys` set how it is read (limit=20), or override task keys that affect
        predictions (score_threshold=0.5). Raises ConfigError if the task draws none.
        """
        own = ("folder", "batch_size")
        source = make_source(data, keys, "call", takes_options=True, keywords=own)
        target = Destination(drawings=Path(folder))
        return predict_rows(str(self.path), source, target, batch_size, trust_code=self.trust_code)

    def report(
        self, data: Any = None, output: str | Path | None = None, batch_size: int = 32, **keys: Any
    ) -> Report:
        """Write a page about what the final model gets wrong; return its path and its findings.

        `data` are labeled rows, by default the held-out ones of the run; name them if it was
        trained on rows made in Python. `output` is a folder, by default reports/ of the run. `keys`
        are those of `evaluate`, `slices` and `groups` among them.
        """
        from finetune.audit.report_run import write_report

        own = ("output", "batch_size", "slices", "groups")
        keys, report = take_report_keys(keys, "call")
        source = None
        if data is not None:
            source = make_source(data, keys, "call", takes_options=True, keywords=own)
        elif keys:
            raise ConfigError(f"report: {next(iter(keys))} needs data, the rows that it reads")
        folder = None if output is None else Path(output)
        console, trust = Console(), self.trust_code
        written = write_report(
            str(self.path), source, folder, console, batch_size, report=report, trust_code=trust
        )
        assert written is not None, "only processes other than the main one get none"
        return written

    def export(
        self, data: Any = None, *, to: str = "onnx", output: str | Path | None = None
    ) -> Path:
        """Export the final model, by default to ONNX; return the folder.

        The outputs are compared with PyTorch's on rows of `data`, else on rows of the run. Raises
        ModelError if the network cannot be exported, or if its outputs differ.
        """
        source = None if data is None else make_source(data, {}, "call")
        folder = self.path / to if output is None else Path(output)
        find_exporter(to)(str(self.path), source, folder, self.trust_code)
        return folder

    def push(self, repository: str, **keys: Any) -> str:
        """Upload final/ to a model hub and return the URL of the model.

        Takes the keywords of `finetune.export.hub.push`: private, dry_run, what, license,
        base_model and token.
        """
        return push(self.path, repository, **keys)

    def plot(self) -> Figure:
        """Plot losses, the learning rate and held-out metrics over the steps."""
        from finetune.reporting.plots import plot_history

        return plot_history(self.folder.history())

    def _repr_html_(self) -> str:
        """Render the metrics as an HTML table for notebooks."""
        import pandas

        table = pandas.DataFrame({name: overall(split) for name, split in self.metrics.items()})
        html: str = table.to_html(float_format="{:.4f}".format)
        return f"<p>{self.path}</p>{html}"

    def __fspath__(self) -> str:
        """Return the run folder, so that a run can be given wherever its folder can."""
        return str(self.path)

    def __repr__(self) -> str:
        name = self.folder.read("results.json").get("metric") or "loss"
        values = [
            f"{split} {name} {metrics[name]:.4f}"
            for split, metrics in self.metrics.items()
            if name in metrics
        ]
        return f"Run({', '.join([repr(str(self.path)), *values])})"


@dataclass(frozen=True)
class Search:
    """A finished search: its folder, and a table with one row per trial.

    Attributes:
        best_trial: number of the best trial.
    """

    path: Path
    best_trial: int
    trials: pandas.DataFrame = field(repr=False)

    @property
    def best(self) -> Run:
        """The run of the best trial."""
        return Run(str(self.trials.set_index("trial").loc[self.best_trial, "folder"]))

    def __fspath__(self) -> str:
        return str(self.path)


def train(
    task: str | Mapping[str, Any] | Task | None = None,
    *,
    data: Any = None,
    model: str | Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    fresh: bool = False,
    extend: bool = False,
    **overrides: Any,
) -> Run:
    """Fine-tune a model, or resume if the same call was interrupted before.

    `task` is a name, a dict of the config's task section, or a Task. `data` is a reference (file,
    folder, hub dataset, pkg://...), a datasets.Dataset or DatasetDict, a DataFrame, a list of
    dicts, or {split: any of these}; `validation` and `test` accept the same. All other keywords are
    config keys: `method="lora"`, `epochs=3`, `optim={"lr": 1e-4}`. `fresh` replaces an existing
    run, `extend` trains a finished one longer. Raises FinetuneError.
    """
    loaded, task_object, rows = _load(task, data, model, config, overrides)
    return Run(run(loaded, task_object, data=rows, fresh=fresh, extend=extend).path)


def search(
    task: str | Mapping[str, Any] | Task | None = None,
    *,
    data: Any = None,
    model: str | Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    space: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Search:
    """Search for the best values of config keys, or go on with a search that was interrupted.

    The arguments are those of `train`. A key is tried with several values if it has a list,
    "choice(4, 8, 16)", "log(1e-5, 1e-3)" or "range(0, 0.5, 0.1)", or stands in `space`;
    `trials=16`, `time="30m"` and `search={...}` set how. Raises FinetuneError.
    """
    from finetune.search_space.search_plan import plan_search
    from finetune.searches.search import run_search

    if space is not None:
        overrides["space"] = space
    layers, registry, task_object, rows = _layers(task, data, model, config, overrides)
    make = make_task if task_object is None else partial(_unchanged, task_object)
    results = run_search(plan_search(layers, registry), make, rows)
    return Search(results.folder.path, results.best.number, results.table())


def inspect(
    task: str | Mapping[str, Any] | Task | None = None,
    *,
    data: Any = None,
    model: str | Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    draw: str | Path | None = None,
    with_defaults: bool = False,
    **overrides: Any,
) -> Inspection:
    """Print what `train` would do with the same arguments; train nothing.

    Shows how the data were read, one row from input to prediction, the keys that were set or
    chosen, and the steps, memory and time that the run would take. `draw` names an image file for
    augmented rows and the first batch, `with_defaults` also lists the keys at their default. Raises
    the FinetuneError that `train` would.
    """
    loaded, task_object, rows = _load(task, data, model, config, overrides)
    sheet = None if draw is None else Path(draw)
    return inspect_run(loaded, task_object, sheet, data=rows, with_defaults=with_defaults)


def check(
    task: str | Mapping[str, Any] | Task | None = None,
    *,
    data: Any = None,
    config: str | Path | None = None,
    output: str | Path | None = None,
    **overrides: Any,
) -> list[Finding]:
    """Check data before training: print and return what will harm a model, the worst first.

    Takes the arguments of `train` but for `model`, since no network is loaded. `output` names a
    folder for the findings, the duplicates, and a table for data.drop. Raises FinetuneError.
    """
    model = None if config is not None else {"name": "none"}
    loaded, task_object, rows = _load(task, data, model, config, overrides)
    folder = None if output is None else Path(output)
    return check_data(loaded, task_object, Console(), folder, data=rows)


def _load(
    task: str | Mapping[str, Any] | Task | None,
    data: Any,
    model: str | Mapping[str, Any] | None,
    config: str | Path | None,
    overrides: dict[str, Any],
) -> tuple[Loaded, Task, Any]:
    """Return the config that the arguments of `train` describe, its task, and rows made in Python.

    The rows are None if `data` is a reference.
    """
    layers, registry, task_object, rows = _layers(task, data, model, config, overrides)
    loaded = merge_layers(layers, registry)
    if task_object is None:
        return loaded, make_task(loaded.config.task), rows
    return loaded, _unchanged(task_object, loaded.config.task), rows


def _layers(
    task: str | Mapping[str, Any] | Task | None,
    data: Any,
    model: str | Mapping[str, Any] | None,
    config: str | Path | None,
    overrides: dict[str, Any],
) -> tuple[list[Layer], ConfigRegistry, Task | None, Any]:
    """Return the entries that arguments describe, the registry that reads them, task and rows.

    The task is None if it is to be made from the config.
    """
    held_out = {name: overrides.get(name) for name in ("validation", "test")}
    tables = {name: rows for name, rows in held_out.items() if _is_rows(rows)}
    if tables and data is not None:
        overrides = {name: value for name, value in overrides.items() if name not in tables}
        data = _with_splits(data, tables)
    rows = None if data is None or _is_section(data) else data
    sections = {"model": model, "data": data if rows is None else None}
    overrides |= {name: value for name, value in sections.items() if value is not None}
    overrides = {name: _without_paths(value) for name, value in overrides.items()}
    if isinstance(task, Task):
        task_class = type(task)
        name = task.config.name or f"{task_class.__module__}:{task_class.__qualname__}"
        overrides["task"] = {**task.config.model_dump(exclude_unset=True), "name": name}
        registry = replace(INSTALLED, task=partial(_config_class, task_class))
        return read_layers(config, overrides), registry, task, rows
    if task is not None:
        overrides["task"] = task
    return read_layers(config, overrides), INSTALLED, None, rows


def compare(*runs: Run | str | Path | Sequence[Run | str | Path]) -> pandas.DataFrame:
    """Compare runs, given one by one or as a list, in a table with one column per run.

    Its rows are in four sections, such as `table.loc["metrics"]`: "metrics", with the name of the
    best run in the column "best"; "cost", the steps, seconds and trained parameters; "differs" and
    "shared", the config keys in which the runs differ, and those that were set to the same value.
    """
    import pandas

    each = [run for one in runs for run in ([one] if isinstance(one, Run | str | Path) else one)]
    compared = compare_runs([Path(run) for run in each])
    rows = {
        (section, name): dict(zip(compared.names, values, strict=True))
        for section, cells in compared.sections.items()
        for name, values in cells.items()
    }
    table = pandas.DataFrame.from_dict(rows, orient="index", columns=compared.names)
    table["best"] = [
        compared.names[compared.best[name]] if name in compared.best else "" for _, name in rows
    ]
    return table


def _config_class(task_class: type[Task], name: str) -> type[TaskConfig]:
    """Return the config class of a task that is given as an object, whatever its name."""
    return task_class.Config


def _unchanged(task: Task, config: TaskConfig) -> Task:
    """Return `task` itself. Raises ConfigError if the config would change its keys."""
    merged = config.model_dump(exclude={"name"})
    own = task.config.model_dump(exclude={"name"})
    if changed := [key for key, value in merged.items() if value != own[key]]:
        raise ConfigError(
            f"task.{changed[0]}: task is an object with its own keys, so the config cannot set "
            f"them; write {type(task).__name__}({changed[0]}=...)"
        )
    return task


def _is_rows(value: Any) -> bool:
    """True if a value is data rather than the value of a config key."""
    return value is not None and not isinstance(value, str | int | float | Path)


def _without_paths(value: Any) -> Any:
    """Convert paths to strings in a config value or section."""
    if isinstance(value, Mapping):
        return {name: _without_paths(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _with_splits(data: Any, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Add splits to data. Raises ConfigError if `data` is a section of the config."""
    if not isinstance(data, Mapping):
        return {"train": data, **tables}
    if _is_section(data) and not set(data) <= _SPLITS:
        names = " and ".join(tables)
        raise ConfigError(
            f"data: rows for {names} cannot be combined with a config section "
            f"({', '.join(data)}); pass the training data as data=, and these keys as keywords"
        )
    return {**data, **tables} if holds_splits(data) else {"train": data, **tables}


def _is_section(data: Any) -> bool:
    """True if `data` is a reference or a section of the config rather than rows."""
    if not isinstance(data, Mapping):
        return isinstance(data, str | Path)
    plain = (
        name not in {*_SPLITS, "source"} or not _is_rows(value) for name, value in data.items()
    )
    return all(plain) and set(data) <= set(DataConfig.model_fields)
