"""Networks that reconstruct images, and those of transformers for masked image modeling.

Shapes: B images, C channels, H, W pixels, P, Q masked patches of an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io.references import resolve_model
from finetune.model import Batch, TransferModel
from tasks.backbones.pretrained import from_pretrained, load_network, load_whole, quiet_transformers
from tasks.backbones.seams import find_blocks, recorded_calls
from tasks.backbones.vision_models import HeightWidth, adaptable_layers
from tasks.pretraining.patch_masking import enlarge

AUTO = "AutoModelForMaskedImageModeling"
READ, MASKED = "pixel_values", "masked_patches"
"""Input keys: the images with masks and noise [B, C, H, W], and the masked patches [B, P, Q]."""


class PixelModel(TransferModel):
    """A network whose outputs are reconstructed images, normalized pixels [B, C, H, W].

    Attributes:
        base: reference from which the pretrained network was loaded.
    """

    base: str

    def reconstruct(self, inputs: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        return self.reconstruct(batch["inputs"])

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


class MaskedImageModel(PixelModel):
    """A network of transformers that replaces masked patches by a token of its own."""

    network: Any

    def __init__(self, network: Any, size: HeightWidth, base: str = "") -> None:
        heads = ["decoder"]
        super().__init__(network, heads=heads, blocks=find_blocks(network, heads), kind="vit")
        self.base = base
        self._try(size)

    def _try(self, size: HeightWidth) -> None:
        """Run the network once, to see which layers it calls. Raises ModelError for a size."""
        rows, columns = (side // self.network.config.patch_size for side in size)
        masked = torch.zeros(1, rows, columns, dtype=torch.bool)
        inputs = {READ: torch.zeros(1, 3, *size), MASKED: masked}
        candidates = adaptable_layers(self.network, self.heads)
        try:
            with recorded_calls(self.network, candidates) as called:
                self.reconstruct(inputs)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ModelError(
                f"task.image_size: this network does not accept images of {size[0]} x {size[1]} "
                f"({str(error).strip().splitlines()[0]}); remove task.image_size, or use the same "
                "network from timm"
            ) from error
        self.lora_targets = called

    def reconstruct(self, inputs: dict[str, Tensor]) -> Tensor:
        images, masked = inputs[READ], inputs[MASKED]
        factor = images.shape[-2] // masked.shape[-2] // self.network.config.patch_size
        patches = enlarge(masked, factor).flatten(1)  # [B, patches of the network]
        outputs = self.network(pixel_values=images, bool_masked_pos=patches)
        return outputs.reconstruction  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)


def encoder_stride(config: Any) -> int:
    """Return the side in pixels of a network's coarsest patches, which the decoder scales up."""
    return int(config.patch_size * 2 ** (len(getattr(config, "depths", [0])) - 1))


def check_image_network(source: ModelConfig) -> Any:
    """Return the config of a network of transformers. Raises ModelError for one without masks."""
    from transformers.models.auto import modeling_auto as mappings

    config = from_pretrained("AutoConfig", source)
    known = mappings.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES
    if config.model_type not in known:
        raise ModelError(
            f"model.name: {source.name} ({config.model_type}) cannot replace patches of its input; "
            f"of transformers, use {', '.join(sorted(known))}; of timm, any convolutional network "
            "or vision transformer: model=timm/NAME"
        )
    return config


def load_masked_image_model(source: ModelConfig, size: HeightWidth) -> MaskedImageModel:
    """Load a network of transformers, with a new decoder if the checkpoint has none."""
    config = check_image_network(source)
    network, info = load_network(
        AUTO, source, output_loading_info=True, encoder_stride=encoder_stride(config)
    )
    model = MaskedImageModel(network, size, resolve_model(source.name))
    if any("mask_token" in name for name in info["missing_keys"]):
        model.notes.append(
            "mask token: new; it is part of the first block, so that method=lora and frozen leave "
            "it at 0"
        )
    return model


def load_masked_image_folder(folder: ModelConfig, size: HeightWidth) -> MaskedImageModel:
    """Load a folder that MaskedImageModel.save wrote."""
    return MaskedImageModel(load_whole(AUTO, folder), size)
