"""An LTX-2 pipeline's parts with random weights: 32 px and 8 frames a latent, a latent a token."""

import torch
from diffusers import AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from likeness.backbones.ltx2_transformer import ConcatLTX2Transformer3DModel

# What LTX-2.3 sets apart from LTX-2.0, at the published values.
LTX23 = {
    "gated_attn": True,
    "cross_attn_mod": True,
    "audio_gated_attn": True,
    "audio_cross_attn_mod": True,
    "rope_type": "split",
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}
LTX20 = {"rope_type": "split"}
TRANSFORMER = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "audio_in_channels": 4,
    "audio_out_channels": 4,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "num_layers": 2,
    "caption_channels": 16,
}
SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}


def stock_transformer(**changes) -> LTX2VideoTransformer3DModel:
    """diffusers' audio and video transformer of LTX-2.3, tiny, with random weights; changes: of its settings."""
    with torch.random.fork_rng():  # apart from the tests' own random numbers
        torch.manual_seed(0)
        transformer = LTX2VideoTransformer3DModel(**{**TRANSFORMER, **LTX23, **changes})
        # Norms begin as the identity, under which one in the wrong place would not be seen.
        for name, parameter in transformer.named_parameters():
            if "norm" in name and parameter.ndim == 1:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    return transformer.eval().requires_grad_(False)


def ltx2_parts(tokenizer, **changes) -> dict:
    """changes: of the transformer's settings."""
    base = stock_transformer(**changes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 16, 16, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            decoder_spatio_temporal_scaling=(True,) * 4,
            decoder_inject_noise=(False,) * 5,
            upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
            upsample_residual=(False,) * 4,
            upsample_factor=(2, 2, 1, 2),
            decoder_spatial_padding_mode="zeros",
            decoder_causal=False,
            scaling_factor=0.7,
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
        )
        vae.latents_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        vae.latents_std.copy_(torch.tensor([1.5, 0.5, 1.0, 2.0]))
        text = {
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        }  # fmt: skip
        vision = {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        }  # fmt: skip
        text_encoder = Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        )
        per_modality = not base.config.use_prompt_embeddings
        width = 32 if per_modality else 16
        connectors = LTX2TextConnectors(
            caption_channels=16,
            text_proj_in_factor=3,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=width // 2,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=4,
            video_gated_attn=per_modality,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=4,
            audio_gated_attn=per_modality,
            connector_rope_base_seq_len=32,
            rope_type="split",
            per_modality_projections=per_modality,
            video_hidden_dim=32,
            audio_hidden_dim=16,
            proj_bias=per_modality,
        )
    parts = {
        "transformer": ConcatLTX2Transformer3DModel.from_base(base),
        "vae": vae,
        "text_encoder": text_encoder,
        "connectors": connectors,
    }
    for part in parts.values():
        part.eval().requires_grad_(False)
    return {**parts, "tokenizer": tokenizer, "scheduler": FlowMatchEulerDiscreteScheduler(**SCHEDULER)}
