"""The functions `predict` and `embed` of Python, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np

from finetune.cluster.block_commands import embed_on_cluster, predict_on_cluster
from finetune.cluster.cluster_config import (
    check_cluster_input,
    check_cluster_output,
    take_cluster_values,
)
from finetune.data.source import RowsRequest, make_embedding_source, make_source
from finetune.inference.batch_predict import predict_rows
from finetune.inference.embedding import embed_rows
from finetune.inference.embedding_network import VALUE
from finetune.inference.prediction_outputs import Destination


def predict(
    model: str | os.PathLike[str],
    data: Any,
    output: str | Path,
    *,
    batch_size: int = 32,
    precision: str | None = None,
    trust_code: bool = False,
    **keys: Any,
) -> Path:
    """Predict all rows of `data` and write them to a file, as the command does; return its path.

    `model` is a fine-tuned run, `data` a file, a folder, a hub dataset, or a table. `keys` set how
    the data is read (limit=200) or override task keys that affect predictions (text="review"). With
    on="ray", the machines of a Ray cluster share the rows, and `output` is a Parquet file or a
    folder; cpus=, gpus= and workers= set the share of each process. Code that a run names runs only
    with `trust_code`. Raises FinetuneError.
    """
    cluster, keys = take_cluster_values(keys)
    own = ("batch_size", "precision", "trust_code")
    source = make_source(_reference_of(data), keys, "call", takes_options=True, keywords=own)
    request = RowsRequest(os.fspath(model), source, batch_size, precision, trust_code)
    path = Path(output)
    if cluster.on is None:
        trust = {"trust_code": trust_code}
        predict_rows(request.model, source, Destination(path), batch_size, precision, **trust)
        return path
    check_cluster_input(source)
    check_cluster_output(path)
    predict_on_cluster(request, path, cluster)
    return path


@overload
def embed(
    model: str | os.PathLike[str], data: Any, output: None = None, **keys: Any
) -> np.ndarray: ...


@overload
def embed(model: str | os.PathLike[str], data: Any, output: str | Path, **keys: Any) -> int: ...


def embed(
    model: str | os.PathLike[str],
    data: Any,
    output: str | Path | None = None,
    *,
    batch_size: int = 32,
    precision: str | None = None,
    trust_code: bool = False,
    **keys: Any,
) -> np.ndarray | int:
    """Embed each row of `data`; return the vectors as float32 [N, H].

    With `output`, write them to this Parquet file instead, which an interrupted call resumes, and
    return the number of rows.

    `model` is a pretrained network or a fine-tuned run, `data` anything that `finetune.train`
    takes, or a list of bare texts or image paths. `keys` set how the data is read (limit=200) or
    set keys of the task (max_length=128); task=NAME selects the task if the columns fit several.
    With on="ray", the machines of a Ray cluster share the rows, as in `predict`. Code that a run
    names runs only with `trust_code`. Raises FinetuneError.
    """
    if isinstance(data, list | tuple) and not any(isinstance(row, Mapping) for row in data):
        data = [{VALUE: value} for value in data]
    cluster, keys = take_cluster_values(keys)
    source = make_embedding_source(_reference_of(data), keys, "call")
    request = RowsRequest(os.fspath(model), source, batch_size, precision, trust_code)
    path = None if output is None else Path(output)
    if cluster.on is None:
        return embed_rows(request, path)
    check_cluster_input(source)
    check_cluster_output(path)
    assert path is not None, "checked"
    return embed_on_cluster(request, path, cluster)


def _reference_of(data: Any) -> Any:
    return os.fspath(data) if isinstance(data, os.PathLike) else data
