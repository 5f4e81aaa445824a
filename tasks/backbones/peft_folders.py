"""Adapters of peft as pretrained networks: the base model that they name, with the adapter merged.

Only adapters in safetensors are read, for networks of transformers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from finetune.config.model_folders import ADAPTER_CONFIG, CONFIG, read_model_config
from finetune.errors import ModelError, listed
from finetune.io.references import locate, resolve_model
from tasks.backbones.network_folders import USES, folder_kind

WEIGHTS = "adapter_model.safetensors"
CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""The class that an adapter was trained in, by peft's name of its task."""
_LISTED = 3


class AdapterFolder(NamedTuple):
    """A folder with an adapter, and the name of its base model."""

    path: Path
    base: str

    @property
    def trained_in(self) -> str | None:
        """The Auto class that the adapter was trained in; None if it is not known."""
        return CLASSES.get(str(read_model_config(self.path, ADAPTER_CONFIG).get("task_type")))

    def has_file_for(self, auto: str) -> bool:
        """True if the folder itself holds what an Auto class other than of networks loads."""
        files = {
            "AutoTokenizer": "tokenizer_config.json",
            "AutoImageProcessor": "preprocessor_config.json",
        }
        return auto in files and (self.path / files[auto]).is_file()


def find_adapter(name: str) -> AdapterFolder | None:
    """Return the adapter in a folder without a network. Raises ModelError if it cannot be used."""
    path = Path(resolve_model(name))
    if not _is_adapter(path):
        return None
    place = f"model.name: {name} is an adapter"
    base = read_model_config(path, ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"{place} whose {ADAPTER_CONFIG} does not name its base model; write it there as "
            "base_model_name_or_path, or give the merged network (final/ of the run)"
        )
    try:
        locate(str(base), ModelError)
    except ModelError as error:
        raise ModelError(
            f"{place} for {base}, which is not on this machine; write the folder or the hub id of "
            f"its base model into {path / ADAPTER_CONFIG} as base_model_name_or_path, or give the "
            "merged network (final/ of the run)"
        ) from error
    if kind := folder_kind(str(base)):
        raise ModelError(
            f"{place} for {base}, {USES[kind]}; only adapters of networks of transformers are "
            "merged, so give the merged network (final/ of the run)"
        )
    if _is_adapter(Path(resolve_model(str(base)))):
        raise ModelError(f"{place} for {base}, which is an adapter too; give the merged network")
    if not (path / WEIGHTS).is_file():
        raise ModelError(f"{place} without {WEIGHTS}; other formats are not loaded")
    return AdapterFolder(path, str(base))


def _is_adapter(path: Path) -> bool:
    """True for a folder with an adapter and without a network."""
    return (path / ADAPTER_CONFIG).is_file() and not (path / CONFIG).is_file()


def merge_adapter(network: Any, adapter: AdapterFolder) -> None:
    """Merge an adapter into a network, and load the head that it trained if the labels fit.

    Raises ModelError if the adapter does not fit the network.
    """
    import peft
    from safetensors.torch import load_file

    place = f"model.name: the adapter {adapter.path}"
    try:
        state = load_file(adapter.path / WEIGHTS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked below
            adapted: Any = peft.PeftModel(network, peft.PeftConfig.from_pretrained(adapter.path))
            expected = peft.get_peft_model_state_dict(adapted)
            peft.set_peft_model_state_dict(adapted, state, ignore_mismatched_sizes=True)
    except Exception as error:  # files of another content fail anywhere in the libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{place} does not fit {adapter.base}: {reason}") from error
    misfits = [
        name
        for name in {*expected} ^ {*state} | {n for n in {*expected} & {*state} if ".lora_" in n}
        if name not in state or name not in expected or expected[name].shape != state[name].shape
    ]
    if misfits:
        raise ModelError(
            f"{place} does not fit {adapter.base} as loaded for this task: "
            f"{listed(sorted(misfits), _LISTED)}; give the merged network"
        )
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ModelError(
            f"{place} is of type {adapted.active_peft_config.peft_type.value}, which cannot be "
            "merged into a network; give a LoRA adapter, or another model"
        )
    adapted.merge_and_unload()
    network.requires_grad_(True)  # peft has frozen it
    if hasattr(network, "peft_config"):
        del network.peft_config  # or transformers would save the network as an adapter
