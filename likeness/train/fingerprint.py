"""What encodes, as a short text: two models with the same fingerprint make the same latents and prompt embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from likeness.faces.pack import FacePack
from likeness.media import sha256_file

_VALUES = 16  # of each tensor; weights that differ at all, differ nearly everywhere
_STATISTICS = ("latents_mean", "latents_std", "scaling_factor", "shift_factor")  # what latents are normalised by
_PROBE = "A woman in her 30s, smiling; she's on the left."


def video_fingerprint(backbone: Any) -> str:
    """Of the VAE that makes latents."""
    statistics = [f"{name} {backbone.vae.config.get(name)}" for name in _STATISTICS]
    return _digest([*statistics, *_weights("vae", backbone.vae)])


def text_fingerprint(backbone: Any) -> str:
    """Of the tokenizer and the networks that embed a prompt."""
    tokenizer = backbone.tokenizer
    length = getattr(backbone, "max_sequence_length", tokenizer.model_max_length)
    lines = [f"{len(tokenizer)} tokens, {length} a prompt", f"{_PROBE} {tokenizer(_PROBE).input_ids}"]
    for part in ("text_encoder", "connectors"):
        module = getattr(backbone, part, None)
        if module is not None:
            lines += _weights(part, module)
    return _digest(lines)


def faces_fingerprint(pack: FacePack) -> str:
    """Of the detector, its settings and the recogniser."""
    files = [str(model.model_file) for model in (pack.detector, pack.recognizer) if model is not None]
    return _digest([f"{pack.det_size} {pack.det_threshold}", *(sha256_file(path) for path in files)])


def _weights(name: str, module: nn.Module) -> list[str]:
    """Name, shape and some values of each tensor, rounded to bfloat16: a model is the same in whichever type it was loaded, and by
    whichever version of its library, whose configurations grow."""
    lines = [f"{name}: {type(module).__name__}"]
    tensors = [(key, value) for key, value in module.state_dict().items() if value.is_floating_point()]
    picked = [value.flatten()[:: max(1, value.numel() // _VALUES)][:_VALUES].bfloat16() for _, value in tensors]
    rows = torch.cat(picked).cpu().view(torch.int16).split([len(value) for value in picked]) if picked else ()
    for (key, value), row in zip(tensors, rows, strict=True):
        lines.append(f"{key} {list(value.shape)} {row.tolist()}")
    return lines


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
