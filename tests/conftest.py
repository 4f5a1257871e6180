"""Small random models in the real classes, and the material that some tests need."""

from __future__ import annotations

import os
import signal

# A shell starts what runs in the background with Ctrl-C ignored; tests of Ctrl-C need Python's own handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is imported: tests share their cores with other work, and one thread also keeps results reproducible.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

# Examples are counted, not timed: the machine may be busy with something else.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).parents[1]
WORDS = [
    "a",
    "man",
    "woman",
    "person",
    "smiling",
    "looking",
    "left",
    "right",
    "in",
    "the",
    "park",
    "city",
    "with",
    "glasses",
    "is",
    "on",
    "wall",
]
# Latent channels, and a text width small enough for a test in milliseconds.
Z_DIM, TEXT_DIM = 4, 16


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A word tokenizer with T5's special tokens and room for 12 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=12
    )


@pytest.fixture(scope="session")
def tiny_transformer_config() -> dict:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": Z_DIM,
        "out_channels": Z_DIM,
        "text_dim": TEXT_DIM,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
    }


@pytest.fixture(scope="session")
def random_wan_components(tiny_tokenizer, tiny_transformer_config) -> dict:
    """Every part of a Wan pipeline with random weights; a session's tests share them and leave them as they are."""
    import torch
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    from likeness.backbones.wan import ConcatWanTransformer3DModel

    # Seeded apart from the tests' own random numbers.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = ConcatWanTransformer3DModel(**tiny_transformer_config)
        vae = AutoencoderKLWan(
            base_dim=8,
            z_dim=Z_DIM,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 1.0, 2.0],
        )
        text_encoder = UMT5EncoderModel(
            UMT5Config(vocab_size=3 + len(WORDS), d_model=TEXT_DIM, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        )
    parts = {"transformer": transformer, "vae": vae, "text_encoder": text_encoder}
    for part in parts.values():
        part.eval().requires_grad_(False)
    return {**parts, "tokenizer": tiny_tokenizer, "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0)}


@pytest.fixture
def random_wan_backbone(random_wan_components):
    """A ``WanBackbone`` of 8 px a latent, 4 frames a latent, 2x2 latents a token."""
    from likeness.backbones.wan import WanBackbone

    return WanBackbone(**random_wan_components)


@pytest.fixture
def random_pipeline(random_wan_components):
    """A ``LikenessPipeline`` with Concat-ID's Wan method, 32x32 px and 5 frames by default."""
    from likeness.method import CONCAT_ID_WAN
    from likeness.pipeline import LikenessPipeline

    pipeline = LikenessPipeline(
        **random_wan_components,
        method=CONCAT_ID_WAN,
        default_num_frames=5,
        default_height=32,
        default_width=32,
        default_fps=8,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def random_cogvideox_components(tiny_tokenizer) -> dict:
    """Every part of a CogVideoX pipeline with random weights; a session's tests share them and leave them as they are."""
    from cogvideox_parts import cogvideox_parts

    return cogvideox_parts(tiny_tokenizer)


@pytest.fixture
def random_cogvideox_backbone(random_cogvideox_components):
    """A ``CogVideoXBackbone`` of 8 px a latent, 4 frames a latent, 2x2 latents a token."""
    from likeness.backbones.cogvideox import CogVideoXBackbone

    return CogVideoXBackbone(**random_cogvideox_components)


@pytest.fixture(scope="session")
def random_ltx2_components(tiny_tokenizer) -> dict:
    """Every part of an LTX-2 pipeline with random weights; a session's tests share them and leave them as they are."""
    from ltx2_parts import ltx2_parts

    return ltx2_parts(tiny_tokenizer)


@pytest.fixture
def random_ltx2_backbone(random_ltx2_components):
    """An ``Ltx2Backbone`` of 32 px a latent, 8 frames a latent, a latent a token."""
    from likeness.backbones.ltx2 import Ltx2Backbone

    return Ltx2Backbone(**random_ltx2_components)


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The tiny trained model that comes with the package."""
    folder = ROOT / "likeness" / "world" / "weights" / "tiny"
    if not (folder / "model_index.json").is_file():
        pytest.skip("the trained tiny model is not in this checkout")
    return folder


@pytest.fixture(scope="session")
def real_material() -> Path:
    """A folder of real photographs, clips and detectors, which is not part of the repository."""
    folder = ROOT.parent / "shared" / "real"
    if not folder.is_dir():
        pytest.skip(f"no real photographs: there is no folder {folder.parent.name}/{folder.name} beside the repository")
    return folder
