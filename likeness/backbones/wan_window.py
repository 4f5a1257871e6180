"""Some latents of a video through Wan's causal decoder, exactly, at a part of the cost of decoding all.

The decoder is made of convolutions that look back a few frames and of layers that see one frame each. What lies before a
window matters only as far as they look, and they look less far the later they come: the last block, which has the most
pixels, looks back 14 frames. So each block begins as late as its own view of the window allows.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor


def decode_latents(vae: Any, latents: Tensor, start: int, length: int) -> Tensor:
    """Decoder outputs of ``latents[:, :, start : start + length]``, with gradient to those alone.

    Args:
        vae: an ``AutoencoderKLWan``.
        latents: as the VAE takes them, ``[B, C, T, H, W]``.
        start, length: the window, in latents.

    Returns:
        ``[B, C', F, H', W']`` before unpatchifying and clamping, equal to what the whole video gives.
    """
    firsts = [max(0, start - history) for history in block_histories(vae)]
    frames: list[Tensor] = []
    vae.clear_cache()
    for index in range(start + length):
        with torch.set_grad_enabled(index >= start and torch.is_grad_enabled()):
            source = latents if index >= start else latents.detach()
            latent = vae.post_quant_conv(source[:, :, index : index + 1])
            decoded = _decode_latent(vae, latent, index, firsts)
        if index >= start:
            frames.append(decoded)
    vae.clear_cache()
    return torch.cat(frames, dim=2)


def block_histories(vae: Any) -> list[int]:
    """How many latents before a window each of the decoder's ``up_blocks`` has to see for the window to be exact."""
    decoder = vae.decoder
    doubling = [_time_upsampler(block) is not None for block in decoder.up_blocks]
    rate = 2 ** sum(doubling)  # frames a latent, after the last block
    view = _view(decoder.conv_out)  # frames before the window that are read, at that rate
    histories: list[int] = []
    for block, doubles in reversed(list(zip(decoder.up_blocks, doubling, strict=True))):
        if doubles:
            view, rate = -(-view // 2), rate // 2
        # The widest path through a block takes each of its convolutions, that of the upsampler as well.
        view += _view(block)
        histories.append(-(-view // rate))
    return histories[::-1]


def _decode_latent(vae: Any, latent: Tensor, index: int, firsts: list[int]) -> Tensor:
    """One latent through the blocks that have begun; the output of the last of them."""
    decoder, caches = vae.decoder, vae._feat_map
    begun = sum(index >= first for first in firsts)
    before = caches[0]
    x = decoder.conv_in(latent, before)
    caches[0] = latent if before is None else torch.cat([before[:, :, -1:], latent], dim=2)
    position = [1]
    x = decoder.mid_block(x, feat_cache=caches, feat_idx=position)
    for block, first in list(zip(decoder.up_blocks, firsts, strict=True))[:begun]:
        if index == first > 0 and _time_upsampler(block) is not None:
            # Without this mark the upsampler takes a latent for the video's first, which makes one frame only.
            caches[position[0] + 2 * len(block.resnets)] = "Rep"
        x = block(x, feat_cache=caches, feat_idx=position, first_chunk=index == 0)
    if begun < len(firsts):
        return x
    x = decoder.nonlinearity(decoder.norm_out(x))
    before = caches[position[0]]
    seen = x if before is None else torch.cat([before, x], dim=2)
    x = decoder.conv_out(x, before)
    caches[position[0]] = seen[:, :, -2:].clone()
    return x


def _time_upsampler(block: Any) -> WanResample | None:
    """The layer of a block that doubles its frames, if it has one."""
    layers = (module for module in block.modules() if isinstance(module, WanResample))
    return next((layer for layer in layers if layer.mode == "upsample3d"), None)


def _view(module: torch.nn.Module) -> int:
    """Frames that the causal convolutions of a module look back, one after the other."""
    return sum(part.kernel_size[0] - 1 for part in module.modules() if isinstance(part, WanCausalConv3d))
