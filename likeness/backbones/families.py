"""The families of video models: which classes their parts are, and how they become a backbone.

A family is imported when a model of it is opened; a text encoder's code alone can take seconds.
"""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from likeness.backbones.base import Backbone
from likeness.errors import CheckpointError, UserError
from likeness.method import Method


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the models of a family have in common.

    Attributes:
        name: for messages.
        parts: class of each part that has weights: transformer, vae, text_encoder and others.
        backbone: makes a ``Backbone`` of the parts, by name, with tokenizer and scheduler.
        scheduler: from the configuration in a folder, and a shift in place of its own or None.
        prepare: fits a loaded transformer to a method or to None.
    """

    name: str
    parts: Mapping[str, type[Any]]
    backbone: Callable[..., Backbone]
    scheduler: Callable[[Mapping[str, Any], float | None], Any]
    prepare: Callable[[Any, Method | None], Any] = lambda transformer, method: transformer


def wan() -> Family:
    """Wan 2.1 and 2.2, text to video."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
    from transformers import UMT5EncoderModel

    from likeness.backbones.wan import ConcatWanTransformer3DModel, WanBackbone

    def scheduler(config: Mapping[str, Any], shift: float | None) -> FlowMatchEulerDiscreteScheduler:
        # Wan's folders name a multistep solver, whose shift is called flow_shift.
        found = config.get("flow_shift", config.get("shift", 1.0))
        steps = config.get("num_train_timesteps", 1000)
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=found if shift is None else shift)

    def prepare(transformer: ConcatWanTransformer3DModel, method: Method | None) -> ConcatWanTransformer3DModel:
        wanted = "shared" if method is None else method.reference_modulation
        if wanted == "separate" and transformer.config.reference_modulation != "separate":
            return ConcatWanTransformer3DModel.from_base(transformer, "separate")
        return transformer

    return Family(
        name="Wan",
        parts={"transformer": ConcatWanTransformer3DModel, "vae": AutoencoderKLWan, "text_encoder": UMT5EncoderModel},
        backbone=WanBackbone,
        scheduler=scheduler,
        prepare=prepare,
    )


def cogvideox() -> Family:
    """CogVideoX 1.0, text to video."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXDPMScheduler,
        CogVideoXTransformer3DModel,
    )
    from transformers import T5EncoderModel

    from likeness.backbones.cogvideox import CogVideoXBackbone

    def scheduler(config: Mapping[str, Any], shift: float | None) -> Any:
        if shift is not None:
            raise UserError(f"A shift of {shift} was given; CogVideoX's schedule has none. Leave it out.")
        is_ddim = config.get("_class_name") == "CogVideoXDDIMScheduler"
        own = {key: value for key, value in config.items() if key != "sampler"}  # an entry that diffusers does not know
        made: Any = (CogVideoXDDIMScheduler if is_ddim else CogVideoXDPMScheduler).from_config(own)
        if "sampler" in config:
            made.register_to_config(sampler=config["sampler"])
        return made

    return Family(
        name="CogVideoX",
        parts={
            "transformer": CogVideoXTransformer3DModel,
            "vae": AutoencoderKLCogVideoX,
            "text_encoder": T5EncoderModel,
        },
        backbone=CogVideoXBackbone,
        scheduler=scheduler,
    )


def ltx2() -> Family:
    """LTX-2.0 and 2.3, the video branch."""
    from diffusers import AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    from transformers import Gemma3ForConditionalGeneration

    from likeness.backbones.ltx2 import ConcatLTX2Transformer3DModel, Ltx2Backbone

    def scheduler(config: Mapping[str, Any], shift: float | None) -> Any:
        fixed = {} if shift is None else {"use_dynamic_shifting": False, "shift": shift}
        return FlowMatchEulerDiscreteScheduler.from_config({**config, **fixed})

    return Family(
        name="LTX-2",
        parts={
            "transformer": ConcatLTX2Transformer3DModel,
            "vae": AutoencoderKLLTX2Video,
            "text_encoder": Gemma3ForConditionalGeneration,
            "connectors": LTX2TextConnectors,
        },
        backbone=Ltx2Backbone,
        scheduler=scheduler,
    )


# Class of the transformer, as its config.json names it -> family.
_FAMILIES: dict[str, Callable[[], Family]] = {
    "ConcatWanTransformer3DModel": wan,
    "WanTransformer3DModel": wan,
    "CogVideoXTransformer3DModel": cogvideox,
    "ConcatLTX2Transformer3DModel": ltx2,
    "LTX2VideoTransformer3DModel": ltx2,
}


def family_of(transformer_class: str) -> Family:
    """The family of a transformer's class.

    Raises:
        CheckpointError: for a class of none of them.
    """
    make = _FAMILIES.get(transformer_class)
    if make is None:
        raise CheckpointError(
            f"{transformer_class} is not a video transformer that Likeness knows; known are {', '.join(_FAMILIES)}."
        )
    return make()


def backbone_of(transformer: Any, **parts: Any) -> Backbone:
    """The parts of a pipeline behind the ``Backbone`` protocol.

    Args:
        transformer: of a class of one of the families.
        parts: the others by name, and settings of the backbone such as ``timestep_dtype``.

    Raises:
        CheckpointError: for a transformer of none of the families.
        UserError: for parts that do not belong together.
    """
    return family_of(type(transformer).__name__).backbone(transformer=transformer, **parts)
