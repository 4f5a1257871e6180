"""Training recipes: the papers' settings as whole configurations, and the same for the tiny family.

A recipe is a function without arguments; ``likeness train RECIPE --set key=value`` changes single values of it. What a paper
does not say is our choice and is said so here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from likeness.errors import UserError
from likeness.method import CONCAT_ID, ST_DRC, Guidance, IdentityLoss, Method
from likeness.train.config import Data, LogitNormal, Lora, Optimization, Previews, TrainConfig

# Concat-ID section 5.1: 49 frames of 480 x 720 on CogVideoX-5B, every parameter trained, linear decay. The paper gives GPU
# hours (A.4) and no steps, batch or optimizer: those are our choice.
_CONCAT_ID_DATA = Data(height=480, width=720, num_frames=49, fps=8.0)


def _concat_id(name: str, learning_rate: float, steps: int, method: Method = CONCAT_ID) -> TrainConfig:
    return TrainConfig(
        recipe=name,
        model="cogvideox-5b",
        method=replace(method, dropped_text="zeros"),  # as CogVideoX itself was trained
        data=_CONCAT_ID_DATA,
        optimization=Optimization(learning_rate=learning_rate, decay="linear", ema_decay=0.9999),
        steps=steps,
        batch_size=32,
        previews=Previews(every=1000),
    )


def concat_id_stage1() -> TrainConfig:
    """Pre-training (section 4.3): the reference is a frame of the clip itself."""
    return _concat_id("concat-id-stage1", 1e-5, 20_000)


def concat_id_stage2() -> TrainConfig:
    """Cross-video fine-tuning: the reference is of another clip, 0.7 <= cos < 0.9. Start it with ``--model`` from stage 1."""
    return _concat_id("concat-id-stage2", 5e-6, 13_000)


def concat_id_stage3() -> TrainConfig:
    """Trade-off fine-tuning: 0.9 <= cos < 0.99; a 24th of the first stage's cost in the paper. Start it from stage 2."""
    return _concat_id("concat-id-stage3", 5e-6, 830)


def concat_id_two() -> TrainConfig:
    """Two identities (B.1): from the single-identity first stage, then stages 1 and 2 on pairs of two."""
    return _concat_id("concat-id-two", 1e-5, 10_000, replace(CONCAT_ID, max_references=2, kinds=("face",)))


def concat_id_three() -> TrainConfig:
    """Three identities (B.1), as two."""
    return _concat_id("concat-id-three", 1e-5, 10_000, replace(CONCAT_ID, max_references=3, kinds=("face",)))


def concat_id_try_on() -> TrainConfig:
    """Virtual try-on (B.2): a face and clothing, cross-video pairs only, from the single-identity first stage. Noise is on both, as
    in every stage (section 4.3); flips on the clothing alone."""
    method = replace(CONCAT_ID, max_references=2, kinds=("face", "clothing"), flipped_kinds=("clothing",))
    return _concat_id("concat-id-try-on", 5e-6, 10_000, method)


def concat_id_background() -> TrainConfig:
    """A face and a background (B.2), as try-on but for the flips: noise on both."""
    method = replace(CONCAT_ID, max_references=2, kinds=("face", "background"))
    return _concat_id("concat-id-background", 5e-6, 10_000, method)


def st_drc() -> TrainConfig:
    """ST-DRC section 4.1: 20,000 steps, batch 32, AdamW at 5e-5, all parameters. Decay, size and the interval of the identity
    losses are not said."""
    return TrainConfig(
        recipe="st-drc",
        model="ltx-2.3",
        method=ST_DRC,
        data=Data(height=704, width=1216, num_frames=121, fps=24.0),
        optimization=Optimization(learning_rate=5e-5, decay="constant", warmup_steps=500, ema_decay=0.9999),
        steps=20_000,
        batch_size=32,
        previews=Previews(every=1000),
    )


# The tiny family: drawn people on two CPU cores. Guided apart, because joint guidance amplifies what the text says of a person
# along with what the photograph shows.
TINY_CONCAT_ID = replace(
    CONCAT_ID,
    guidance=Guidance(kind="decoupled", text=2.0, reference=4.0),
    max_references=1,
    kinds=("face",),
)
TINY_ST_DRC = replace(
    ST_DRC,
    guidance=Guidance(kind="decoupled", text=2.0, reference=4.0),
    identity_loss=IdentityLoss(),
)


def tiny(name: str, method: Method, steps: int, learning_rate: float = 1e-3) -> TrainConfig:
    """What the recipes of the tiny family have in common."""
    return TrainConfig(
        recipe=name,
        model="tiny",
        method=method,
        optimization=Optimization(
            name="muon", learning_rate=learning_rate, betas=(0.9, 0.98), weight_decay=0.02, warmup_steps=50,
            decay="cosine", max_grad_norm=5.0, ema_decay=0.998,
        ),
        steps=steps,
        batch_size=96,
        micro_batch_size=32,
        gradient_checkpointing=False,
        attention_backend="_native_math",  # 1.3 times as fast on sequences this short
        face_weight=4.0,
        identity_every=2,  # a step with identity losses takes 2.5 times as long
        checkpoint_every=100,
        previews=Previews(every=500),
    )  # fmt: skip


def tiny_base() -> TrainConfig:
    """Text to video alone, what both methods start from: references are never shown. From random weights."""
    method = replace(TINY_CONCAT_ID, name="text-to-video", dropped_reference="absent", reference_dropout=1.0)
    return tiny("tiny-base", method, 3000, learning_rate=2e-3)


def tiny_concat_id_stage1() -> TrainConfig:
    """Concat-ID's first stage on drawn people: the reference is a frame of the clip itself."""
    return tiny("tiny-concat-id-stage1", TINY_CONCAT_ID, 1500)


def tiny_concat_id_stage2() -> TrainConfig:
    """Its second stage: photographs and other clips of the person."""
    return tiny("tiny-concat-id-stage2", TINY_CONCAT_ID, 2500)


def tiny_concat_id_stage3() -> TrainConfig:
    """Its third stage: other clips in which the face looks most alike."""
    return tiny("tiny-concat-id-stage3", TINY_CONCAT_ID, 375)


def _for_faces(config: TrainConfig) -> TrainConfig:
    """Where drawn faces are lost: at noise levels about a half, and in a quarter of the picture."""
    return replace(config, noise_levels=LogitNormal(), face_weight=12.0)


def tiny_concat_id_faces() -> TrainConfig:
    """A stage of our own after Concat-ID's three, for the finest features: photographs as references, as users give them.

    Two thirds of the papers' pairs refer to faces cut from clips of 64 pixels, which show less of a person than a photograph does.
    Samples lie about noise level 0.5, below which features are lost (`likeness.recipes.denoising`), and errors at faces count
    twelve times. The rate is constant, so that the run can go on for as long as it gains; the next one lowers it to 0.
    """
    config = _for_faces(tiny("tiny-concat-id-faces", TINY_CONCAT_ID, 4000))
    return replace(config, optimization=replace(config.optimization, decay="constant"))


def tiny_concat_id_identity() -> TrainConfig:
    """The last stage: as that for faces, with ST-DRC's identity losses made strong.

    At the paper's weight they change nothing at this size. Here the weight is twenty times that, every step has it, and it counts
    at high noise as well (gamma 0.5), where the person is decided. A face is to be like the real frame's and not like the
    photograph's, whose expression is another: at the photograph's, people get more alike and expressions worse
    (`docs/ablations.md`). Decoding is what costs: one face a video is decoded and embedded, and without a second one there is no temporal loss.
    """
    loss = IdentityLoss(weight=2.0, temporal_weight=0.0, gamma=0.5, target="video")
    config = tiny("tiny-concat-id-identity", replace(TINY_CONCAT_ID, identity_loss=loss), 800)
    return replace(
        _for_faces(config),
        batch_size=64,
        micro_batch_size=16,
        identity_every=1,
        identity_frames=1,
        identity_margin=0,
    )


def tiny_st_drc() -> TrainConfig:
    """ST-DRC on drawn people: TASS-RoPE, augmentation, identity losses."""
    return tiny("tiny-st-drc", TINY_ST_DRC, 600)


def tiny_two() -> TrainConfig:
    """Concat-ID with two people, from the single-identity model, as a LoRA of it: a fifth of the file, and of one person it still knows
    what it knew."""
    config = tiny("tiny-two", replace(TINY_CONCAT_ID, max_references=2), 500)
    layers = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    return replace(
        config,
        lora=Lora(rank=32, alpha=32, targets=layers),
        optimization=replace(config.optimization, name="adamw", learning_rate=2e-3),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    make().recipe: make
    for make in (
        concat_id_stage1, concat_id_stage2, concat_id_stage3, concat_id_two, concat_id_three, concat_id_try_on,
        concat_id_background, st_drc, tiny_base, tiny_concat_id_stage1, tiny_concat_id_stage2, tiny_concat_id_stage3,
        tiny_concat_id_faces, tiny_concat_id_identity, tiny_st_drc, tiny_two,
    )
}  # fmt: skip


def recipe(name: str) -> TrainConfig:
    """The configuration of a recipe.

    Raises:
        UserError: for an unknown name.
    """
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}. Choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]()
