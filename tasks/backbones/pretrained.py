"""Loading from transformers: in float32, without log output, with errors that give the remedy.

transformers is imported on use, because the import takes seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.config.schema import ModelConfig
from finetune.distributed.collector import collector_paused
from finetune.errors import ModelError, listed
from finetune.io.references import check_origin, resolve_model, suggest_beside
from tasks.backbones.dropout import config_keys
from tasks.backbones.load_faults import check_loaded, check_network_config, describe_fault
from tasks.backbones.network_folders import missing_processor, refuse_folder
from tasks.backbones.peft_folders import AdapterFolder, find_adapter, merge_adapter

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GGUF = ".gguf"
# The message of transformers' Auto classes for the config of a network made for another task.
_OTHER_NETWORK = re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+)Config'>")
# A class in `auto_map` whose module transformers would download: "owner/name--module.Class".
_HUB_CODE = re.compile(r'"[^"\s]+/[^"\s]+--\w+\.\w+"')
_PROCESSORS = ("AutoTokenizer", "AutoImageProcessor", "AutoProcessor")
_LISTED = 3
_CODE = (
    "comes with code of its own, which has not run. Review it in a local folder (code of a hub "
    "repository never runs: download the repository first), then give that folder with "
    "model.trust_remote_code=true for training, and --trust-code or trust_code=True afterwards"
)


def from_pretrained(
    auto: str,
    source: ModelConfig,
    remedy: str = "Give a hub id, a folder with config.json and safetensors, or pkg://PACKAGE/PATH",
    **arguments: Any,
) -> Any:
    """Load from a reference with an Auto class of transformers. Raises ModelError."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    refuse_keys(source, "transformers", {"weights": "its folder holds its weights"})
    adapter = find_adapter(source.name)
    if adapter is not None and not adapter.has_file_for(auto):
        return _from_adapter(auto, source, adapter, **arguments)
    name, gguf = _split_gguf(resolve_model(source.name))
    may_run_code = source.trust_remote_code and not _is_from_hub(Path(name))
    refuse_folder(source.name)
    keys = {"revision": source.revision, "trust_remote_code": may_run_code}
    try:
        if not gguf and auto not in _PROCESSORS:
            settings, rest = transformers.PretrainedConfig.get_config_dict(name, **keys)
            check_network_config(settings, rest)
            if auto.startswith("AutoModel"):
                _import_network(settings.get("model_type"))
        with quiet_transformers():
            return getattr(transformers, auto).from_pretrained(name, **keys, **gguf, **arguments)
    except StrictDataclassError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"model.name: config.json of {source.name!r}: {reason}. {remedy}"
        ) from error
    except ModelError as error:
        raise ModelError(f"model.name: {source.name!r}: {error}") from None
    except Exception as error:  # files of another content fail anywhere in the library
        if "trust_remote_code" in str(error):
            raise ModelError(f"model.name: {source.name!r} {_CODE}") from None
        first = describe_fault(error)
        if other := _OTHER_NETWORK.match(first):
            first = f"that class does not support networks of type {other[1]}."
            remedy = "Choose a network for this task"
        elif "connect to" in first and not Path(name).exists():
            missing = f"There is no such folder{suggest_beside(name)}"
            first = f"{missing}, and the hub is not reachable ({first.rstrip('.')})."
        elif misfit := missing_processor(source.name, auto):
            first, remedy = f"{misfit}.", "Choose a network for this task"
        first = first.rstrip().replace(" from one of:", ".")  # the list is on the next lines
        raise ModelError(
            f"model.name: {source.name!r} cannot be loaded with {auto}: {_ended(first)} {remedy}"
        ) from error


def _import_network(model_type: Any) -> None:
    """Import the code of a network of transformers, if it is one, before it is loaded."""
    import transformers

    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        return
    config_class = transformers.CONFIG_MAPPING[model_type]
    module = config_class.__module__.replace(".configuration_", ".modeling_")
    if module not in sys.modules:
        with quiet_transformers(), collector_paused(), contextlib.suppress(ImportError):
            importlib.import_module(module)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!", ":")) else f"{sentence}."


def _from_adapter(auto: str, source: ModelConfig, adapter: AdapterFolder, **arguments: Any) -> Any:
    """Load from the base model of an adapter, a network with the adapter merged into it."""
    base = source.model_copy(update={"name": adapter.base, "revision": None})
    if not auto.startswith("AutoModel"):
        return from_pretrained(auto, base, **arguments)
    if source.quantize is not None:
        raise ModelError(
            f"model.quantize={source.quantize}: adapters are merged into unquantized weights; "
            f"give the base model, {adapter.base}, or remove the key"
        )
    trained_in = adapter.trained_in
    if auto == "AutoModel" and trained_in not in (None, auto):
        # The adapter names the layers as they are inside of the class it was trained in.
        loaded = from_pretrained(str(trained_in), base, **arguments)
        network, *info = loaded if isinstance(loaded, tuple) else (loaded,)
        merge_adapter(network, adapter)
        return (network.base_model, *info) if info else network.base_model
    loaded = from_pretrained(auto, base, **arguments)
    network = loaded[0] if isinstance(loaded, tuple) else loaded
    merge_adapter(network.base_model if trained_in == "AutoModel" else network, adapter)
    return loaded


def _is_from_hub(folder: Path) -> bool:
    """True for a hub id, a folder in the hub's cache, and a folder whose code is on a hub."""
    if not folder.is_dir() or folder.resolve().parent.name == "snapshots":
        return True
    configs = (path.read_text(encoding="utf-8") for path in folder.glob("*config.json"))
    return any(_HUB_CODE.search(text) for text in configs)


def load_network(auto: str, source: ModelConfig, **arguments: Any) -> Any:
    """Load a network in float32, so that a half-precision checkpoint trains in full precision.

    The weights of a GGUF file are dequantized; with model.quantize they are quantized to 4 or 8
    bits. Raises ModelError if the weights are those of another network.
    """
    has_info = arguments.pop("output_loading_info", False)
    if source.quantize is not None:
        arguments |= _quantization_arguments(source)
        # LLM.int8 warns at every matrix product that it rounds its input.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if source.attention is not None:
        arguments |= {"attn_implementation": source.attention}
    if source.dropout is not None or source.drop_path is not None:
        arguments |= config_keys(source, from_pretrained("AutoConfig", source))
    arguments |= {"dtype": torch.float32, "output_loading_info": True}
    network, info = from_pretrained(auto, source, **arguments)
    check_loaded(network, info, source)
    if source.name.lower().endswith(GGUF):
        _clear_quantization(network)
    return (network, info) if has_info else network


def load_whole(
    auto: str,
    source: ModelConfig,
    apart: Callable[[Any], Sequence[str]] = lambda _: (),
    **keys: Any,
) -> Any:
    """Load a network of which every tensor was saved, except those of the modules `apart`.

    Raises ModelError if a tensor is missing, which the library would initialize at random.
    """
    network, info = load_network(auto, source, output_loading_info=True, **keys)
    modules = tuple(f"{name}." for name in apart(network))
    missing = [name for name in info["missing_keys"] if not name.startswith(modules)]
    if missing:
        raise ModelError(
            f"{source.name}: its weight files lack {listed(sorted(missing), _LISTED)}; copy the "
            "model here again from an intact source"
        )
    return network


def refuse_keys(source: ModelConfig, library: str, no_effect: Mapping[str, str]) -> None:
    """Raise ModelError for keys without effect; `no_effect`: {key: reason} for this library."""
    for key, why in no_effect.items():
        value = getattr(source, key)
        if value != ModelConfig.model_fields[key].default:
            fault = f"is a network of {library}: {why}"
            raise ModelError(f"model.{key}={value}: {source.name} {fault}; remove the key")
    check_origin(source)


def label_keys(names: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a transformers config that describe the labels."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _quantization_arguments(source: ModelConfig) -> dict[str, Any]:
    """Return arguments that load weights to this GPU in NF4 (Dettmers et al. 2023,
    arXiv:2305.14314) or LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339).

    Raises ModelError without a CUDA device or bitsandbytes, and for already quantized weights.
    """
    place = f"model.quantize={source.quantize}"
    if source.name.lower().endswith(GGUF):
        raise ModelError(
            f"{place}: {source.name} is already quantized; give the hub id or folder of the "
            "unquantized weights, or remove model.quantize"
        )
    if not torch.cuda.is_available():
        raise ModelError(
            f"{place}: quantized weights need a CUDA device, but none is available; remove the key "
            "(model.activation_checkpointing=true saves memory on every device)"
        )
    if find_spec("bitsandbytes") is None:
        raise ModelError(f"{place}: needs bitsandbytes; pip install 'finetune-kit[quantize]'")
    from transformers import BitsAndBytesConfig

    compute_dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if source.quantize == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
        )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def _split_gguf(name: str) -> tuple[str, dict[str, str]]:
    """Return a name as transformers expects it: for a GGUF file its folder, and `gguf_file`."""
    path = Path(name)
    if path.suffix.lower() != GGUF:
        return name, {}
    if find_spec("gguf") is None:
        raise ModelError(
            f"model.name: reading the GGUF file {path.name} requires the package gguf; "
            "pip install 'finetune-kit[generation]'"
        )
    return str(path.parent), {"gguf_file": path.name}


def _clear_quantization(network: Any) -> None:
    """Remove the quantization attributes of a network whose weights are now float32.

    With them, peft would adapt no layer, and the saved network could not be loaded.
    """
    network = network[0] if isinstance(network, tuple) else network
    for name in ("is_quantized", "quantization_method", "hf_quantizer"):
        if hasattr(network, name):
            delattr(network, name)
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the logs and progress bars of transformers; the kit reports what matters itself."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():  # of a pickle that is refused
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def text_network_kind(config: PretrainedConfig) -> str:
    """Return "decoder" for a network with causal attention, else "encoder"."""
    from transformers.models.auto import modeling_auto as mappings

    causal = config.model_type in mappings.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = config.model_type in mappings.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "decoder" if causal and not masked else "encoder"
