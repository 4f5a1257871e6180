"""Runs of the trainer on made-up batches, as functions that other processes can import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from likeness.pipeline import LikenessPipeline
from likeness.recipes.training import recipe
from likeness.train import run
from likeness.train.config import TrainConfig
from likeness.train.objective import Batch
from likeness.train.optimiser import optimizers_of
from likeness.train.parts import Parts, prepare_transformer
from likeness.train.updates import PlainUpdates, Updates
from likeness.train.zero import EngineUpdates

STEPS = 6


class MadeUpLoader:
    """Random pairs; a batch depends on its number alone, however many processes share it."""

    waited_s = 0.0

    def __init__(self, rank: int, world: int, size: int, embeds: torch.Tensor) -> None:
        self.rank, self.world, self.size, self.embeds = rank, world, size, embeds

    def batches(self, start: int) -> Iterator[Batch]:
        index = start
        while True:
            generator = torch.Generator().manual_seed(index)
            count, mine = self.world * self.size, slice(self.rank * self.size, (self.rank + 1) * self.size)
            latents = torch.randn(count, 4, 2, 4, 4, generator=generator)[mine]
            pixels = (torch.rand(count, 3, 1, 32, 32, generator=generator) * 2 - 1)[mine]
            yield Batch(latents, (pixels,), self.embeds.expand(self.size, -1, -1))
            index += 1


def config_of(model: Path, *settings: str) -> TrainConfig:
    """A few steps on the CPU."""
    return recipe("tiny-concat-id-stage1").override(
        [
            f'model="{model}"', f"steps={STEPS}", "batch_size=4", "micro_batch_size=2", "checkpoint_every=2", "log_every=3",
            "previews.every=0", "precision=fp32", "optimization.name=adamw", "optimization.warmup_steps=0",
            "attention_backend=null", "face_weight=1", 'method.name="made-up"', *settings,
        ]
    )  # fmt: skip


def open_parts(config: TrainConfig, accelerator: Any) -> Parts:
    """As the trainer's own, but for the loader."""
    pipeline = LikenessPipeline.from_pretrained(config.model, method=config.method)
    pipeline.set_progress_bar_config(disable=True)
    parts: Any = pipeline
    for part in (parts.vae, parts.text_encoder):
        part.requires_grad_(False)
    prepare_transformer(parts.transformer, config)
    embeds = pipeline.encode_prompts(["a man smiling"])
    loader: Any = MadeUpLoader(accelerator.process_index, accelerator.num_processes, config.micro_batch_size, embeds)
    return Parts(pipeline, pipeline.backbone, loader, pipeline.encode_prompts([""]), None, (5, 32, 32), 8.0)


class Sharded(run.Trainer):
    """Parameters in shards, as FSDP2 has them; accelerate itself does so on accelerators alone."""

    def _prepare(self, objective: Any, accumulation: int) -> Updates:
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in objective.transformer.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh)
        settings = self.config.optimization
        optimizers = optimizers_of(objective, settings)
        return PlainUpdates(objective, optimizers, self.accelerator, accumulation, settings.max_grad_norm)


class Zero(run.Trainer):
    """An engine of DeepSpeed, which accelerate itself builds on accelerators alone."""

    def _prepare(self, objective: Any, accumulation: int) -> Updates:
        import deepspeed  # pyright: ignore[reportMissingImports]

        config, (optimizer,) = self.config, optimizers_of(objective, self.config.optimization)
        settings = {
            "train_micro_batch_size_per_gpu": config.micro_batch_size,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": config.optimization.max_grad_norm,
            "zero_optimization": {"stage": 2},
            "zero_allow_untested_optimizer": True,
        }
        engine, sharing, _, _ = deepspeed.initialize(model=objective, optimizer=optimizer, config=settings)
        return EngineUpdates(engine, [sharing])


def start(trainer: type[run.Trainer], output: Path, model: Path, *settings: str) -> Path:
    """A run in this process."""
    run.open_parts = open_parts
    return trainer(config_of(model, *settings), output).run()


def share(rank: int, processes: int, trainer: type[run.Trainer], output: Path, model: Path, *settings: str) -> None:
    """A run's part in one of several processes."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    start(trainer, output, model, *settings)


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    start(run.Trainer, Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
