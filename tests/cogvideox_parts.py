"""A CogVideoX pipeline's parts with random weights: 8 px and 4 frames a latent, 2x2 latents a token."""

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 16,
    "num_layers": 2,
    # Trained at 2 x 3 tokens, 32 x 48 px.
    "sample_height": 4,
    "sample_width": 6,
    "max_text_seq_length": 12,
    "norm_eps": 1e-6,
    "use_rotary_positional_embeddings": True,
}
SCHEDULER = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
}


def cogvideox_parts(tokenizer, **transformer) -> dict:
    """transformer: in place of entries of TRANSFORMER."""
    with torch.random.fork_rng():  # apart from the tests' own random numbers
        torch.manual_seed(0)
        parts = {
            "transformer": CogVideoXTransformer3DModel(**{**TRANSFORMER, **transformer}),
            "vae": AutoencoderKLCogVideoX(
                block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4,
                scaling_factor=0.7,
            ),
            "text_encoder": T5EncoderModel(
                T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
            ),
        }  # fmt: skip
        # Norms begin as the identity, under which one in the wrong place would not be seen.
        for name, parameter in parts["transformer"].named_parameters():
            if "norm" in name and parameter.ndim == 1:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    for part in parts.values():
        part.eval().requires_grad_(False)
    return {**parts, "tokenizer": tokenizer, "scheduler": CogVideoXDDIMScheduler(**SCHEDULER)}
