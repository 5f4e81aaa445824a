"""Checks of what a command line names, before torch is imported, which takes seconds.

The commands check the same where they read it, for callers in Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.cluster.cluster_config import (
    ClusterConfig,
    check_cluster_input,
    check_cluster_output,
)
from finetune.commands.data_names import check_data_names
from finetune.config.conflicts import check_conflicts
from finetune.config.schema import DataConfig, RunConfig
from finetune.data.source import Source, check_given, find_data
from finetune.errors import ConfigError, DataError
from finetune.export.hub import check_hub_keys
from finetune.inference.model_loading import local_model, read_task, trained_config
from finetune.io.references import check_origin, check_run_exists
from finetune.io.run_folder import RunFolder, check_flags, check_free
from finetune.io.table_writer import check_output
from finetune.methods import METHODS
from finetune.optim.timm_names import check_architecture_name, check_optimizer_name
from finetune.registry import find_object
from finetune.reporting.trackers import check_packages
from finetune.tables.encodings import Decoder

if TYPE_CHECKING:
    from finetune.inference.prediction_outputs import Destination


def check_run(config: RunConfig, *, fresh: bool, extend: bool) -> None:
    """Check the flags of a run, and the data, the network and the places that its config names."""
    check_flags(fresh=fresh, extend=extend)
    if config.method.name in METHODS:  # the class of another method may say more than its config
        check_conflicts(config, config.method)
    check_optimizer_name(config.optim.name)
    check_packages(config.output.trackers)
    data, output = config.data, config.output
    check_given(data)
    Decoder(data.encoding)
    if data.map is not None:
        find_object(data.map, "data.map")
    _find_files(data)
    check_data_names(config)
    check_origin(config.model)
    check_architecture_name(config.model.name)
    if output.dir is not None:
        check_free(RunFolder(Path(output.dir)))
    check_hub_keys(output)


def _find_files(data: DataConfig) -> None:
    """Raise DataError, with its key, for a file or folder of the data that does not exist."""
    for name in (
        "source",
        "train",
        "validation",
        "test",
        "answers",
        "drop",
        "relabel",
        "unlabeled",
    ):
        references = getattr(data, name)
        for reference in references if isinstance(references, list) else [references]:
            try:
                find_data(reference)
            except DataError as error:
                raise DataError(f"data.{name}: {error}") from error


def check_model(run: str, source: Source | None = None) -> None:
    """Check a fine-tuned model on this machine, and the rows and the task keys of a source."""
    folder = local_model(run)
    if source is None:
        return
    find_data(source.reference)
    if source.config.map is not None:
        find_object(source.config.map, "data.map")
    saved = read_task(folder) if folder is not None else {}
    if saved and ":" not in str(saved["name"]):  # code of its own needs permission first
        trained_config(saved, source.options)


def check_prediction(
    run: str, source: Source, destination: Destination, cluster: ClusterConfig
) -> None:
    """Check the arguments of the command `predict`."""
    from finetune.inference.prediction_outputs import check_destination

    if cluster.on is None:
        check_destination(destination, find_data(source.reference))
    elif destination.drawings or destination.form or destination.safe_csv:
        raise ConfigError("on=ray: writes Parquet only; leave --draw, --as and --safe-csv out")
    else:
        check_cluster_input(source)
        check_cluster_output(destination.path)
    check_model(run, source)


def check_embedding(model: str, source: Source, output: Path, cluster: ClusterConfig) -> None:
    """Check the arguments of the command `embed`."""
    from finetune.inference.part_files import check_vector_file

    if cluster.on is None:
        check_vector_file(output)
    else:
        check_cluster_input(source)
        check_cluster_output(output)
    check_run_exists(model)
    find_data(source.reference)


def check_suggestion(model: str, source: Source, output: Path) -> None:
    """Check the arguments of the command `suggest`."""
    check_output(output, find_data(source.reference))
    check_run_exists(model)
