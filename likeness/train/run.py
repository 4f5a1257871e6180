"""The training loop, on accelerate: one device or many, full weights or LoRA; safe to kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor

from likeness.errors import UserError
from likeness.threads import stop_signals
from likeness.train import checkpoint, zero
from likeness.train.average import ParameterAverage
from likeness.train.config import TrainConfig
from likeness.train.curves import CURVES_FILE, draw_curves
from likeness.train.log import Log
from likeness.train.objective import Objective, sample_generators
from likeness.train.optimiser import optimizers_of
from likeness.train.parts import Parts, open_parts
from likeness.train.preview import Previewer
from likeness.train.result import write_result
from likeness.train.updates import PlainUpdates, Updates

_OF_FACES = {"identity", "temporal_identity"}  # means over the videos with a face, of which batches have more and less
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class Stopped(Exception):
    """A run was asked to stop and has saved its state; the message says how to go on."""


@dataclass(eq=False)
class Trainer:
    """A run in a folder.

    The folder holds ``config.json``, ``log.jsonl`` (figures that depend on nothing but the configuration), ``speed.jsonl``
    (seconds and memory), both in ``tensorboard/`` too, ``curves.png``, ``checkpoints/``, ``previews/`` and, in the end, ``model/``.

    Attributes:
        config: of the run.
        output: its folder; one that holds a run of the same configuration is gone on with.
        on_step: called after each update with (updates done, updates in all, figures of the update).
    """

    config: TrainConfig
    output: Path
    on_step: Callable[[int, int, Mapping[str, float]], None] | None = None
    accelerator: Accelerator = field(init=False)
    parts: Parts = field(init=False)

    def run(self) -> Path:
        """Train to the last step; returns the folder of the model.

        Raises:
            UserError: for a configuration, data or a folder that do not fit, a full disk, or too little memory.
            Stopped: after SIGTERM or SIGINT, once the state is saved.
        """
        try:
            return self._run()
        finally:
            # accelerate keeps what a process's first run was like; the next one may be another.
            AcceleratorState._reset_state(reset_partial_state=True)

    def _run(self) -> Path:
        config = self.config
        self.accelerator = accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
        accumulation = config.accumulation(accelerator.num_processes)
        zero.configure(accelerator, config, accumulation)
        if accelerator.is_main_process:
            _claim(self.output, config)
        accelerator.wait_for_everyone()
        with _memory_errors(config):
            self.parts = parts = open_parts(config, accelerator)
            objective = Objective(
                parts.backbone,
                config.method,
                parts.empty_embeds,
                auxiliary=parts.auxiliary,
                noise_levels=config.noise_levels,
                face_weight=config.face_weight,
                even_calls=_agreed_maximum if accelerator.distributed_type in _SHARDED else None,
            )
            updates = self._prepare(objective, accumulation)
            self._loop(updates, accumulation)
            path = write_result(self.output, config, parts, updates.module, self._average, accelerator.is_main_process)
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return path

    def _prepare(self, objective: Objective, accumulation: int) -> Updates:
        """The objective and its optimizers as this run's processes share them."""
        accelerator, settings = self.accelerator, self.config.optimization
        module, *optimizers = accelerator.prepare(objective, *optimizers_of(objective, settings))
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            return zero.EngineUpdates(module, optimizers)
        return PlainUpdates(module, optimizers, accelerator, accumulation, settings.max_grad_norm)

    def _loop(self, updates: Updates, accumulation: int) -> None:
        config, accelerator, loader = self.config, self.accelerator, self.parts.loader
        decay = config.optimization.ema_decay
        average = self._average = None if decay is None else ParameterAverage(updates.module, decay)
        peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in updates.optimizers]
        log = Log(self.output, is_main=accelerator.is_main_process)
        step = self._resume(updates, log)
        previewer = Previewer(config, self.output, self.parts, is_main=accelerator.is_main_process)
        rank, world, size = accelerator.process_index, accelerator.num_processes, config.micro_batch_size
        with stop_signals() as asked, ExitStack() as stack:
            batches = iter(loader.batches(step * accumulation))
            stack.callback(getattr(batches, "close", lambda: None))
            while step < config.steps:
                started, waited = time.perf_counter(), loader.waited_s
                scale = config.optimization.scale(step, config.steps)
                for optimizer, rates in zip(updates.optimizers, peaks, strict=True):
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * scale
                figures: dict[str, Tensor] = {}
                for micro in range(accumulation):
                    batch = next(batches).to(accelerator.device)
                    generators = sample_generators(config.seed, step, (micro * world + rank) * size, size)
                    with _autocast(accelerator, config), updates.micro_batch(is_last=micro == accumulation - 1):
                        losses = updates.module(batch, generators, step % config.identity_every == 0)
                        updates.backward(losses["loss"])
                    for name, value in losses.items():
                        share = losses["identity_videos"] if name in _OF_FACES else 1.0
                        figures[name] = figures.get(name, 0.0) + value.detach().float() * share / accumulation
                norm = updates.step()
                if average is not None:
                    average.update()
                step += 1
                values = _reduced(accelerator, figures)
                for name in _OF_FACES & values.keys():
                    values[name] /= max(values["identity_videos"], 1e-6)
                values |= {"grad_norm": _number(norm), "learning_rate": peaks[0][0] * scale}
                log.add(values, time.perf_counter() - started, loader.waited_s - waited)
                if not torch.isfinite(torch.tensor(values["loss"])):
                    raise UserError(
                        f"The loss of step {step} is {values['loss']}. Lower optimization.learning_rate or set "
                        "precision=fp32; the last checkpoint is from before this step."
                    )
                if step % config.log_every == 0 or step == config.steps:
                    log.write(step, samples=config.batch_size)
                if self.on_step is not None and accelerator.is_main_process:
                    self.on_step(step, config.steps, values)
                stop = _any_process(accelerator, bool(asked))
                if step % config.checkpoint_every == 0 or step == config.steps or stop:
                    self._save(updates, log, step)
                    if accelerator.is_main_process:
                        draw_curves([self.output], self.output / CURVES_FILE)
                if previewer.is_due(step):
                    with ExitStack() as swap:
                        if average is not None:
                            swap.enter_context(average.in_place())
                        previewer.make(step)
                if stop and step < config.steps:
                    raise Stopped(
                        f"stopped at step {step} of {config.steps}, which is saved; the same command goes on from there"
                    )
        log.close()

    def _resume(self, updates: Updates, log: Log) -> int:
        found = checkpoint.latest(self.output)
        if found is None:
            log.restart(0, {})
            return 0
        progress, average = checkpoint.load(found, updates)
        if self._average is not None and average is not None:
            self._average.load(average, progress.average_updates)
        log.restart(progress.step, progress.sums)
        return progress.step

    def _save(self, updates: Updates, log: Log, step: int) -> None:
        average = self._average
        checkpoint.save(
            self.output,
            updates,
            None if average is None else average.gathered(),
            checkpoint.Progress(step, log.sums, 0 if average is None else average.num_updates),
            keep=self.config.keep_checkpoints,
            is_main=self.accelerator.is_main_process,
        )
        self.accelerator.wait_for_everyone()


# What a run may change when it is gone on with: nothing that the weights depend on.
_FREE = ("previews", "micro_batch_size", "gradient_checkpointing", "compile", "attention_backend", "checkpoint_every",
         "keep_checkpoints", "log_every")  # fmt: skip


def _claim(output: Path, config: TrainConfig) -> None:
    """Write the configuration into the folder, or compare it with the one under which weights that are there were trained."""
    file = output / "config.json"
    values = json.loads(json.dumps(config.to_dict()))
    if file.exists() and (checkpoint.latest(output) is not None or (output / "model").exists()):
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [key for key in values if key not in _FREE and before.get(key) != values[key]]
        if changed:
            raise UserError(
                f"{output} holds a run of another configuration: {', '.join(changed)} differ. Give the same settings to go "
                "on with it, or another output folder."
            )
    elif output.exists() and any(output.iterdir()) and not file.exists():
        raise UserError(f"{output} is not empty and holds no run; give a new folder.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}. Give another output folder.") from error


def _autocast(accelerator: Accelerator, config: TrainConfig) -> Any:
    """bfloat16 where it is asked for; accelerate leaves it to DeepSpeed, which rounds the weights and not what meets them."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    return accelerator.autocast()


@contextmanager
def _memory_errors(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = []
        if config.micro_batch_size > 1:
            advice.append(f"micro_batch_size (now {config.micro_batch_size})")
        if not config.gradient_checkpointing:
            advice.append("gradient_checkpointing=true")
        if config.lora is None:
            advice.append('lora={"rank": 64}')
        advice.append("data.num_frames, data.height and data.width, or more devices with FSDP (docs: training)")
        raise UserError(
            f"The device has too little memory: {str(error).splitlines()[0]} Lower or set one of: {'; '.join(advice)}. "
            "The last checkpoint is intact."
        ) from error


def _any_process(accelerator: Accelerator, flag: bool) -> bool:
    if accelerator.num_processes == 1:
        return flag
    return bool(_all_reduce(float(flag), dist.ReduceOp.MAX, accelerator.device))


def _agreed_maximum(count: int) -> int:
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    return int(_all_reduce(float(count), dist.ReduceOp.MAX, device))


def _all_reduce(value: float, operation: Any, device: torch.device) -> float:
    box = torch.tensor(value, device=device)
    dist.all_reduce(box, operation)
    return float(box)


def _reduced(accelerator: Accelerator, figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the processes, in one transfer."""
    names = sorted(figures)
    values = torch.stack([figures[name].double() for name in names])
    if accelerator.num_processes > 1:
        dist.all_reduce(values)
        values /= accelerator.num_processes
    return dict(zip(names, values.tolist(), strict=True))


def _number(value: Any) -> float:
    full = getattr(value, "full_tensor", None)
    return float(full() if full is not None else value)
