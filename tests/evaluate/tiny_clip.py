"""A small random CLIP in the layout that openai/clip-vit-base-patch32 has on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

_WORDS = ("a", "man", "woman", "red", "green", "blue", "smiles")


def write_clip(folder: Path, *, image_size: int = 32) -> Path:
    """Writes weights, settings and a tokenizer of a few words to ``folder``."""
    vocabulary = [f"{word}</w>" for word in _WORDS] + [chr(code) for code in range(33, 127)]
    merges = ["#version: 0.2"]
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        vocabulary.append(parts[-1])
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = [parts[0] + parts[1]]
            vocabulary.append(parts[0])
    tokens = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join([merges[0], *dict.fromkeys(merges[1:])]) + "\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=77).save_pretrained(folder)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    last = len(tokens) - 1
    config = CLIPConfig(
        text_config={**layers, "vocab_size": len(tokens), "bos_token_id": last - 1, "eos_token_id": last},
        vision_config={**layers, "image_size": image_size, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    ).save_pretrained(folder)
    return folder
