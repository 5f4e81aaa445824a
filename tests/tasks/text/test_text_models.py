"""Text models: pooling of decoders, and independence of the rows of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.errors import ModelError
from finetune.export.final_model import compute_outputs
from tests.support.text_classifiers import CLOSE, SINGLE, set_up


def test_pooled_head_rejects_decoders_with_inputs_of_their_own(
    t5_folder: Path, bart_folder: Path
) -> None:
    with pytest.raises(ModelError, match=r"task\.head=native, or use an encoder"):
        set_up(t5_folder, SINGLE, head="pooled")
    set_up(t5_folder, SINGLE, head="native")
    set_up(bart_folder, SINGLE, head="pooled")


@pytest.mark.parametrize("head", ["native", "pooled"])
@pytest.mark.parametrize("network", ["bert", "gpt2"])
def test_outputs_do_not_depend_on_the_other_rows_of_a_batch(
    head: str, network: str, bert_folder: Path, gpt2_folder: Path
) -> None:
    task, model = set_up(bert_folder if network == "bert" else gpt2_folder, SINGLE, head=head)
    short, long = {"text": "the match was one year"}, {"text": "market " * 40}
    cpu = torch.device("cpu")
    (alone,) = compute_outputs(model, task, [short], cpu)
    (beside,) = compute_outputs(model, task, [long, short], cpu)
    assert (alone[0] - beside[1]).abs().max() <= CLOSE * alone.abs().max()
    assert not torch.allclose(beside[0], beside[1])
