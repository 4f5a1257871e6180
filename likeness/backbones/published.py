"""Published models at full size, without their weights: for counting parameters and operations.

The transformers' settings are those of their own ``config.json``; what is not named has diffusers' default.
"""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from likeness.backbones.base import Backbone
from likeness.backbones.families import family_of
from likeness.method import Method

_COGVIDEOX_SCHEDULER = {
    "_class_name": "CogVideoXDPMScheduler",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
}


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model as it was published.

    Attributes:
        transformer_class: which names the family.
        transformer: settings that differ from diffusers' defaults.
        video: frames, height and width in px that it was published for.
        text_tokens: tokens of a prompt that the transformer reads.
        text_width: of an embedded token.
        text_encoder, connectors, vae, scheduler: settings of these parts that a backbone checks or reads; the parts
            themselves may differ from the published ones in others.
    """

    transformer_class: str
    transformer: Mapping[str, Any]
    video: tuple[int, int, int]
    text_tokens: int
    text_width: int = 4096
    text_encoder: Mapping[str, Any] = field(default_factory=lambda: {"d_model": 4096})
    connectors: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)


PUBLISHED: dict[str, PublishedModel] = {
    "wan2.1-1.3b": PublishedModel(
        transformer_class="ConcatWanTransformer3DModel",
        transformer={"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        video=(81, 480, 832),
        text_tokens=512,
    ),
    "wan2.1-14b": PublishedModel(
        transformer_class="ConcatWanTransformer3DModel",
        transformer={"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
        video=(81, 480, 832),
        text_tokens=512,
    ),
    "cogvideox-5b": PublishedModel(
        transformer_class="CogVideoXTransformer3DModel",
        transformer={"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        video=(49, 480, 720),
        text_tokens=226,
        scheduler=_COGVIDEOX_SCHEDULER,
    ),
    "ltx-2.3": PublishedModel(
        transformer_class="ConcatLTX2Transformer3DModel",
        transformer={
            "gated_attn": True,
            "cross_attn_mod": True,
            "rope_type": "split",
            "use_prompt_embeddings": False,
        },
        video=(121, 704, 1216),
        text_tokens=1024,
        text_encoder={"text_config": {"hidden_size": 3840, "num_hidden_layers": 48}},
        connectors={"video_connector_num_attention_heads": 32},
        vae={"spatial_compression_ratio": 32, "temporal_compression_ratio": 8},
        scheduler={"use_dynamic_shifting": True},
    ),
}


def meta_transformer(name: str, method: Method | None = None) -> Any:
    """The transformer of a published model on the "meta" device: shapes, no memory.

    Args:
        name: key of :data:`PUBLISHED`.
        method: whose modulation of references it has; None for the published model itself.
    """
    published = PUBLISHED[name]
    family = family_of(published.transformer_class)
    cls = family.parts["transformer"]
    with torch.device("meta"):
        return family.prepare(cls(**published.transformer).eval().requires_grad_(False), method)


def meta_backbone(name: str, method: Method) -> Backbone:
    """A published model of which ``predict`` runs, on the "meta" device, and nothing that needs text or pixels does.

    Raises:
        UserError: if the model cannot express the method.
    """
    published = PUBLISHED[name]
    family = family_of(published.transformer_class)
    with torch.device("meta"):
        parts: dict[str, Any] = {"vae": family.parts["vae"](**published.vae)}
        if "connectors" in family.parts:
            parts["connectors"] = family.parts["connectors"](**published.connectors)
    # Only its configuration is read; a text encoder takes seconds to make, even without memory.
    encoder = family.parts["text_encoder"]
    parts["text_encoder"] = SimpleNamespace(config=encoder.config_class(**published.text_encoder))
    backbone = family.backbone(
        transformer=meta_transformer(name, method),
        tokenizer=None,
        scheduler=family.scheduler(published.scheduler, None),
        **parts,
    )
    backbone.check_method(method)
    return backbone
