"""Everything that decides a training run, as one value that is written beside the weights and inside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from likeness.errors import UserError
from likeness.method import Method
from likeness.settings import check_choice, from_plain, overridden, read_json, to_plain

Precision = Literal["bf16", "fp32"]
OptimizerName = Literal["adamw", "muon"]
Decay = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Pairs and what a clip becomes.

    Attributes:
        pairs: files or folders that ``likeness.train.pairs.read_pairs`` reads.
        store: folder of ``likeness precompute``; what it lacks is encoded as it is needed. None encodes everything.
        height, width, num_frames, fps: px, px, frames, frames a second; None for those the weights were made for.
        buckets: ``(height, width)`` of the aspect buckets; each clip goes to the nearest. None besides height and width.
        workers: threads that read and decode clips ahead of the loop.
        max_skipped: share of broken clips, 0..1, beyond which the run stops.
    """

    pairs: tuple[str, ...] = ()
    store: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    workers: int = 2
    max_skipped: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How the weights move.

    Attributes:
        name: "adamw", or "muon" for the matrices of the blocks and AdamW for the rest, which learns small models faster.
        learning_rate: peak; with Muon that of the matrices.
        plain_learning_rate: with Muon, peak of what AdamW takes; half the other if None.
        betas, weight_decay: of AdamW.
        warmup_steps: linear rise.
        decay: after it, to 0 at the last step, or none.
        max_grad_norm: gradients are clipped to this norm.
        ema_decay: of the moving average that is kept as the result; None keeps the weights themselves.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-5
    plain_learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    decay: Decay = "linear"
    max_grad_norm: float = 1.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        check_choice("optimization.name", self.name, OptimizerName)
        check_choice("optimization.decay", self.decay, Decay)
        if not self.learning_rate > 0:
            raise UserError(f"A learning rate of {self.learning_rate} was given; it must be greater than 0.")
        if not self.max_grad_norm > 0:
            raise UserError(f"max_grad_norm was given as {self.max_grad_norm}; it must be greater than 0.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"ema_decay was given as {self.ema_decay}; it must be between 0 and 1, or null for none.")

    def scale(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at a step, 0 .. steps - 1."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        rest = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        if self.decay == "constant":
            return 1.0
        return 1.0 - rest if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters in place of full training.

    Attributes:
        rank, alpha: of the adapters; they are scaled by alpha / rank.
        targets: names of the layers that get one: the attention projections by default.
    """

    rank: int = 64
    alpha: int = 64
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"A LoRA rank of {self.rank} was given; it must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """Noise levels to train at in place of those that the model was published with: ``sigma = sigmoid(mean + std * N(0, 1))``.

    Attributes:
        mean: of the logits; 0 centres on a level of 0.5, higher is noisier.
        std: of the logits, greater than 0; 1 puts two thirds of the samples in 0.27..0.73.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise UserError(f"A std of {self.std} was given for the noise levels' logits; it must be greater than 0.")


@dataclass(frozen=True, kw_only=True)
class Previews:
    """Videos made during training, with the weights that would be kept.

    Attributes:
        every: steps between previews; 0 for none.
        count: pairs to preview, the first of the validation pairs, or of the training pairs where there are none.
        pairs: validation pairs.
        num_inference_steps: of sampling; None for the weights' own.
    """

    every: int = 0
    count: int = 4
    pairs: tuple[str, ...] = ()
    num_inference_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run; a recipe is a function that returns one.

    Attributes:
        recipe: its name.
        model: name or folder of the model to start from.
        method: what is trained. Its dropout, noise, augmentation and identity losses are part of it.
        data, optimization, lora, previews: see there; ``lora`` is None for full training.
        steps: updates of the weights.
        batch_size: pairs an update, over all processes.
        micro_batch_size: pairs a process computes at once; gradients accumulate up to ``batch_size``.
        precision: "bf16" computes in bfloat16 and keeps weights in float32.
        gradient_checkpointing: recomputes activations, for memory.
        compile: compiles the transformer's blocks.
        attention_backend: of diffusers, by name; None for its default.
        faces: folder of face models, for identity losses and face weights; None for the default one.
        noise_levels: the levels to train at; None for those of the model's noise process, as published.
        face_weight: how much more an error counts where a face is (1 as published).
        identity_every: steps between those with the method's identity losses.
        identity_window, identity_frames: latents of each video that they decode, and faces of a window that they embed, None for all.
        identity_margin: latents about a face that are decoded with it; None decodes whole frames.
        checkpoint_every: steps between full states; keep_checkpoints: how many of the last stay.
        log_every: steps between lines of the log.
        seed: of order, noise and dropout.
    """

    recipe: str
    model: str
    method: Method
    data: Data = field(default_factory=Data)
    optimization: Optimization = field(default_factory=Optimization)
    lora: Lora | None = None
    previews: Previews = field(default_factory=Previews)
    steps: int
    batch_size: int
    micro_batch_size: int = 1
    precision: Precision = "bf16"
    gradient_checkpointing: bool = True
    compile: bool = False
    attention_backend: str | None = None
    faces: str | None = None
    noise_levels: LogitNormal | None = None
    face_weight: float = 1.0
    identity_every: int = 1
    identity_window: int = 1
    identity_frames: int | None = None
    identity_margin: int | None = None
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, Precision)
        for name in (
            "steps", "batch_size", "micro_batch_size", "identity_every", "checkpoint_every", "keep_checkpoints", "log_every",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"{name} was given as {getattr(self, name)}; it must be 1 or more.")

    def accumulation(self, num_processes: int) -> int:
        """Micro-batches an update.

        Raises:
            UserError: for a batch that the processes cannot share evenly.
        """
        together = num_processes * self.micro_batch_size
        if self.batch_size % together:
            raise UserError(
                f"A batch of {self.batch_size} cannot be shared by {num_processes} processes of {self.micro_batch_size} "
                f"pairs each; make batch_size a multiple of {together}."
            )
        return self.batch_size // together

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, as JSON keeps them."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            UserError: for keys that are unknown or missing and for values of another type or out of range.
        """
        return from_plain(cls, values)

    def override(self, settings: Sequence[str]) -> TrainConfig:
        """This configuration with values replaced.

        Args:
            settings: ``key=value`` each, e.g. ``optimization.learning_rate=2e-5``, ``method.placement.cols=1`` or
                ``lora={"rank": 16}``; values are JSON, or a string where they are not.

        Raises:
            UserError: for an unknown key or a value that does not fit.
        """
        return TrainConfig.from_dict(overridden(self.to_dict(), settings))


def read_config(path: Path) -> TrainConfig:
    """The configuration in a JSON file, such as the ``config.json`` of a run.

    Raises:
        UserError: for a file that is missing, is not JSON, or holds no configuration.
    """
    return TrainConfig.from_dict(read_json(path, "Give a recipe's name or a configuration."))
