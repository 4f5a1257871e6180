"""What a run needs besides the loop: the model, the data and the auxiliary losses, each where it belongs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from likeness.backbones.base import Backbone
from likeness.errors import UserError
from likeness.faces import faces_folder
from likeness.faces.pack import FacePack
from likeness.pipeline import LikenessPipeline
from likeness.train.config import Data, Lora, TrainConfig
from likeness.train.identity import IdentityObjective
from likeness.train.loader import PairLoader
from likeness.train.objective import Auxiliary
from likeness.train.pairs import read_pairs
from likeness.train.store import Store


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a run.

    Attributes:
        pipeline: the model, for previews and for the result; its transformer is the one that is trained.
        backbone: the same behind the protocol.
        loader: of the training pairs.
        empty_embeds: ``[1, L, D]`` of the empty prompt.
        auxiliary: the method's identity losses, or None.
        size: frames, height and width of a video.
        fps: frames a second.
    """

    pipeline: LikenessPipeline
    backbone: Backbone
    loader: PairLoader
    empty_embeds: Tensor
    auxiliary: Auxiliary | None
    size: tuple[int, int, int]
    fps: float


def open_parts(config: TrainConfig, accelerator: Accelerator) -> Parts:
    """Load the model, make its transformer trainable, open the data.

    Raises:
        UserError: for what the configuration names and is not there, or does not fit.
    """
    device, method = accelerator.device, config.method
    if not config.data.pairs:
        raise UserError("No training pairs were given; name a file or a folder with --data.")
    pairs = read_pairs([Path(item) for item in config.data.pairs])
    for pair in pairs:
        try:
            method.check_references(pair.kinds)
        except UserError as error:
            raise UserError(f"{pair.source}: {error}") from None
    # Trained weights stay in float32 and are computed with in bfloat16; frozen ones may be small.
    small = torch.bfloat16 if device.type != "cpu" and config.precision == "bf16" else torch.float32
    pipeline = LikenessPipeline.from_pretrained(
        config.model, method=method, torch_dtype=torch.float32 if config.lora is None else small, device="cpu"
    )
    pipeline.set_progress_bar_config(disable=True)
    components: Any = pipeline
    for part in (components.vae, components.text_encoder, components.connectors):
        if part is not None:
            part.requires_grad_(False).eval()
    components.text_encoder.to(small)
    size, fps = video_size(config.data, pipeline)
    backbone = pipeline.backbone_at(fps)
    backbone.spec.check_size(*size)

    faces = auxiliary = None
    if method.identity_loss is not None or config.face_weight != 1.0:
        faces = FacePack.load(faces_folder(config.faces), threads=1)  # the loader's threads share the work
        if method.identity_loss is not None:
            auxiliary = IdentityObjective.from_pack(
                faces,
                method.identity_loss,
                device=device,
                window=config.identity_window,
                max_frames=config.identity_frames,
                margin=config.identity_margin,
            )
    store = None if config.data.store is None else Store.open(Path(config.data.store), backbone)
    # With a store the text encoder is hardly needed: a large one would take memory that the transformer wants.
    pipeline.to(device) if store is None else components.vae.to(device)
    prepare_transformer(components.transformer, config).to(device)
    loader = PairLoader(
        pairs,
        backbone,
        store=store,
        num_frames=size[0],
        height=size[1],
        width=size[2],
        fps=fps,
        buckets=config.data.buckets,
        batch_size=config.micro_batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        workers=config.data.workers,
        max_skipped=config.data.max_skipped,
        faces=faces,
        embed_references=method.identity_loss is not None and method.identity_loss.target == "reference",
        flipped_kinds=method.flipped_kinds,
    )
    return Parts(
        pipeline=pipeline,
        backbone=backbone,
        loader=loader,
        empty_embeds=dropped_text(pipeline).to(device),
        auxiliary=auxiliary,
        size=size,
        fps=fps,
    )


def dropped_text(pipeline: LikenessPipeline) -> Tensor:
    """Embeddings ``[1, L, D]`` that stand for dropped text, as the method has it."""
    empty = pipeline.encode_prompts([""])
    return torch.zeros_like(empty) if pipeline.method.dropped_text == "zeros" else empty


def video_size(data: Data, pipeline: LikenessPipeline) -> tuple[tuple[int, int, int], float]:
    """Frames, height, width, and frames a second: of the configuration, else of the weights."""
    own = pipeline.config
    size = (
        own.default_num_frames if data.num_frames is None else data.num_frames,
        own.default_height if data.height is None else data.height,
        own.default_width if data.width is None else data.width,
    )
    return size, float(own.default_fps if data.fps is None else data.fps)


def prepare_transformer(transformer: Any, config: TrainConfig) -> Any:
    """Make a transformer trainable as the configuration says: fully or by LoRA, checkpointed, compiled."""
    if config.lora is None:
        transformer.requires_grad_(True)
    else:
        transformer.requires_grad_(False)
        add_lora(transformer, config.lora)
    transformer.train()
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    # Set in any case: diffusers keeps the last one for the whole process, and a run should not depend on the one before.
    if hasattr(transformer, "set_attention_backend"):
        try:
            transformer.set_attention_backend(config.attention_backend or "native")
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"attention_backend {config.attention_backend!r} cannot be used: {error}") from error
    if config.compile:
        if not getattr(transformer, "_repeated_blocks", None):
            raise UserError(
                f"{type(transformer).__name__} does not say which blocks it repeats, so compile=true has nothing to "
                "compile. Set compile=false."
            )
        transformer.compile_repeated_blocks()
    return transformer


def add_lora(transformer: Any, lora: Lora) -> None:
    """Give the layers that the configuration names an adapter; trained are the adapters alone.

    Raises:
        UserError: where no layer has such a name.
    """
    from peft import LoraConfig

    pattern = "|".join(re.escape(target) for target in lora.targets)
    if not any(re.search(rf"(^|\.)({pattern})$", name) for name, _ in transformer.named_modules()):
        raise UserError(
            f"No layer of {type(transformer).__name__} is called {' or '.join(lora.targets)}; set lora.targets."
        )
    transformer.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets)))
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
