"""Tensors under the names of the published checkpoints, written down apart from the package's own table."""

import re

import torch


def wan_names(state: dict) -> dict:
    """diffusers' names -> Wan's own, written down apart from the package's table."""
    renamed = {}
    for name, value in state.items():
        for ours, theirs in (
            ("attn1.", "self_attn."), ("attn2.", "cross_attn."), ("to_out.0", "o"), ("to_q", "q"), ("to_k", "k"),
            ("to_v", "v"), ("norm2", "norm3"), ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
            ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
            ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
            ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
            ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
            ("condition_embedder.time_proj_ref", "time_projection_ref.1"),
            ("condition_embedder.time_proj", "time_projection.1"), ("proj_out", "head.head"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        name = re.sub(r"^scale_shift_table$", "head.modulation", name).replace("scale_shift_table", "modulation")
        renamed[name] = value
    return renamed


def sat_names(state: dict, layers: int) -> dict:
    """diffusers' names -> those of CogVideoX's training framework."""
    made = {}
    top = {
        "patch_embed.proj": "mixins.patch_embed.proj", "patch_embed.text_proj": "mixins.patch_embed.text_proj",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "norm_final": "transformer.final_layernorm", "norm_out.norm": "mixins.final_layer.norm_final",
        "norm_out.linear": "mixins.final_layer.adaLN_modulation.1", "proj_out": "mixins.final_layer.linear",
    }  # fmt: skip
    for end in ("weight", "bias"):
        for ours, theirs in top.items():
            if f"{ours}.{end}" in state:
                made[f"{theirs}.{end}"] = state[f"{ours}.{end}"]
        for n in range(layers):
            block, layer = f"transformer_blocks.{n}.", f"transformer.layers.{n}."
            made[f"{layer}attention.query_key_value.{end}"] = torch.cat(
                [state[f"{block}attn1.to_{letter}.{end}"] for letter in "qkv"]
            )
            for ours, theirs in (
                ("attn1.to_out.0", f"{layer}attention.dense"), ("norm1.norm", f"{layer}input_layernorm"),
                ("norm2.norm", f"{layer}post_attention_layernorm"), ("ff.net.0.proj", f"{layer}mlp.dense_h_to_4h"),
                ("ff.net.2", f"{layer}mlp.dense_4h_to_h"),
                ("attn1.norm_q", f"mixins.adaln_layer.query_layernorm_list.{n}"),
                ("attn1.norm_k", f"mixins.adaln_layer.key_layernorm_list.{n}"),
            ):  # fmt: skip
                made[f"{theirs}.{end}"] = state[f"{block}{ours}.{end}"]
            one, two = (state[f"{block}norm{i}.linear.{end}"].chunk(2) for i in (1, 2))
            made[f"mixins.adaln_layer.adaLN_modulations.{n}.1.{end}"] = torch.cat([one[0], two[0], one[1], two[1]])
    return {f"model.diffusion_model.{name}": value.clone() for name, value in made.items()}
