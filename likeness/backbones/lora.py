"""LoRA files on a pipeline of any family, by diffusers' own loaders."""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import CogVideoXLoraLoaderMixin, LTX2LoraLoaderMixin, WanLoraLoaderMixin
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from likeness.errors import CheckpointError, UserError

# Class of the transformer or a base of it -> what knows the family's LoRA formats, those of other trainers among them.
_READERS = {
    "WanTransformer3DModel": WanLoraLoaderMixin,
    "CogVideoXTransformer3DModel": CogVideoXLoraLoaderMixin,
    "ConcatLTX2Transformer3DModel": LTX2LoraLoaderMixin,
}


class LoraMixin(CogVideoXLoraLoaderMixin):
    """``load_lora_weights`` and kin for a pipeline whose ``transformer`` decides which formats are read.

    The families' mixins in diffusers differ in their readers alone; saving, fusing, ``set_adapters`` and
    ``unload_lora_weights`` are one for all.
    """

    transformer: Any

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA of the transformer, one trained on the base model too.

        Args:
            pretrained_model_name_or_path_or_dict: a safetensors file, a folder with one, a name on the Hub or tensors.
            adapter_name: for ``set_adapters``.
            hotswap: replace the adapter of this name in place.
            **kwargs: ``weight_name``, ``revision``, ``low_cpu_mem_usage`` and others of diffusers.

        Raises:
            UserError: for a file whose tensors are not a LoRA's.
        """
        options = {key: kwargs.pop(key) for key in ("low_cpu_mem_usage",) if key in kwargs}
        reader = next(
            reader
            for cls in type(self.transformer).__mro__
            for name, reader in _READERS.items()
            if cls.__name__ == name
        )
        source = pretrained_model_name_or_path_or_dict
        source = dict(source) if isinstance(source, dict) else source
        # Safetensors alone: diffusers would fall back to pickled files.
        tensors, metadata = reader.lora_state_dict(source, use_safetensors=True, return_lora_metadata=True, **kwargs)
        foreign = [name for name in tensors if "lora" not in name]
        if foreign:
            raise UserError(f"The file is not a LoRA: it has {foreign[0]}. Use load_lora_weights for LoRA files alone.")
        self.load_lora_into_transformer(
            tensors,
            transformer=self.transformer,
            adapter_name=adapter_name,
            metadata=metadata,
            _pipeline=self,
            hotswap=hotswap,
            **options,
        )


@torch.no_grad()
def merge_lora(transformer: nn.Module, path: Path) -> None:
    """Add a LoRA that this package trained to the weights: ``W + B A`` for each pair in its file, whose scale is in B.

    Args:
        transformer: with every layer of the file.
        path: safetensors, ``transformer.LAYER.lora_A.weight [r, in]`` and ``transformer.LAYER.lora_B.weight [out, r]``.

    Raises:
        CheckpointError: naming the first tensor that has no partner, no layer or another shape.
    """
    with safe_open(path, framework="pt") as file:
        if "lora_adapter_metadata" in (file.metadata() or {}):  # diffusers' own, with a scale apart
            raise CheckpointError(f"{path} was not trained with this package; load it with pipeline.load_lora_weights.")
    tensors = load_file(path)
    layers = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    foreign = sorted(set(tensors) - {f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"})
    if foreign or not layers:
        raise CheckpointError(f"{path} is not a LoRA of this package: {foreign[0] if foreign else 'it is empty'}.")
    for layer in sorted(layers):
        try:
            weight = transformer.get_parameter(f"{layer.removeprefix('transformer.')}.weight")
            down, up = tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]
            change = up.float() @ down.float()
        except (AttributeError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path}: {layer} does not fit the base that it stands on ({error}).") from error
        if change.shape != weight.shape:
            raise CheckpointError(f"{path}: {layer} is {list(change.shape)}, the base has {list(weight.shape)}.")
        weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))
