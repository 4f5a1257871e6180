"""A window of Wan's decoder equals the whole to the bit, however little of the history each block sees."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from likeness.backbones import wan_window
from likeness.backbones.wan_window import block_histories, decode_latents

SMALL = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
DECODERS = {
    "2.1": {"dim_mult": [1, 1, 1, 1], "temperal_downsample": [False, True, True]},
    "2.2": {"dim_mult": [1, 2, 2, 2], "temperal_downsample": [False, True, True], "is_residual": True,
            "decoder_base_dim": 4, "in_channels": 12, "out_channels": 12, "patch_size": 2},
    "one doubling": {"dim_mult": [1, 1], "temperal_downsample": [True]},
}  # fmt: skip


def _vae(name: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(**SMALL, **DECODERS[name]).eval().requires_grad_(False)


def _whole(vae: AutoencoderKLWan, latents: torch.Tensor) -> list[torch.Tensor]:
    """diffusers' own loop, one output a latent."""
    outputs = []
    vae.clear_cache()
    for index in range(latents.shape[2]):
        vae._conv_idx = [0]
        latent = vae.post_quant_conv(latents[:, :, index : index + 1])
        outputs.append(vae.decoder(latent, vae._feat_map, vae._conv_idx, first_chunk=index == 0))
    return outputs


@pytest.mark.parametrize("name", DECODERS)
def test_windows_equal_the_whole_to_the_bit(name: str) -> None:
    vae, latents = _vae(name), torch.randn(1, 4, 26, 2, 2)
    whole = _whole(vae, latents)
    assert block_histories(vae)[-1] < 24, "the last block begins late"
    for start, length in ((0, 1), (1, 2), (3, 1), (6, 2), (12, 1), (24, 2)):
        window = decode_latents(vae, latents, start, length)
        assert window.equal(torch.cat(whole[start : start + length], 2)), (start, length)


def test_each_block_needs_its_history(monkeypatch) -> None:
    vae, latents = _vae("2.1"), torch.randn(1, 4, 26, 2, 2)
    whole = _whole(vae, latents)[25]
    histories = block_histories(vae)
    assert histories == sorted(histories, reverse=True)
    for number in range(1, len(histories)):
        less = [*histories[:number], *(min(own, histories[number] - 1) for own in histories[number:])]
        monkeypatch.setattr(wan_window, "block_histories", lambda _, less=less: less)
        assert not decode_latents(vae, latents, 25, 1).equal(whole), number


def test_a_window_costs_a_fifth_of_decoding_everything() -> None:
    """Wan 2.1's own decoder, 81 frames, forward and backward, windows of one latent."""
    with torch.device("meta"):
        vae = AutoencoderKLWan().eval().requires_grad_(False)

    def flops(decode) -> int:
        latents = torch.zeros(1, 16, 21, 60, 104, device="meta", requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            decode(latents).sum().backward()
        return counter.get_total_flops()

    whole = flops(lambda latents: torch.cat(_whole(vae, latents), 2))
    windows = [
        flops(lambda latents, start=start: decode_latents(vae, latents, start, 1)) for start in (2, 6, 10, 14, 18)
    ]
    assert sum(windows) / len(windows) <= whole / 5
    assert max(windows) <= whole / 4
