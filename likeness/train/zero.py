"""DeepSpeed's ZeRO, stages 1 and 2, behind the trainer: optimizer states (and gradients) in shards, weights whole.

accelerate builds the engine from the configuration of ``accelerate launch``; what is here fits it to a run: its batch, the moment of an
update, and checkpoints in the run's own format. DeepSpeed's own are pickled files, and never written or read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from likeness.errors import UserError
from likeness.train.config import TrainConfig

_STATES = ("exp_avg", "exp_avg_sq")  # of AdamW, beside its count of steps


def configure(accelerator: Accelerator, config: TrainConfig, accumulation: int) -> None:
    """Tell DeepSpeed the run's batch and clipping, where accelerate was launched with it.

    Raises:
        UserError: for stage 3, offloading, or an optimizer that DeepSpeed cannot share out.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    plugin: Any = accelerator.state.deepspeed_plugin
    settings = plugin.deepspeed_config
    zero = settings.get("zero_optimization", {})
    if zero.get("stage", 0) not in (1, 2):
        raise UserError(
            f"DeepSpeed is configured with ZeRO stage {zero.get('stage', 0)}; stages 1 and 2 are supported. To share out the weights "
            "as well, choose FSDP2 in `accelerate config`."
        )
    if any(zero.get(f"offload_{what}", {}).get("device", "none") != "none" for what in ("optimizer", "param")):
        raise UserError("DeepSpeed is configured to offload; set its offload devices to none, or choose FSDP2.")
    if config.optimization.name != "adamw":
        raise UserError(
            f"DeepSpeed shares out AdamW alone; set optimization.name=adamw (now {config.optimization.name}) or train with DDP or FSDP2."
        )
    settings["train_micro_batch_size_per_gpu"] = config.micro_batch_size
    settings["gradient_accumulation_steps"] = accumulation
    settings["gradient_clipping"] = config.optimization.max_grad_norm
    accelerator.gradient_accumulation_steps = accumulation


@dataclass(frozen=True, eq=False)
class EngineUpdates:
    """:class:`~likeness.train.updates.Updates` by DeepSpeed's engine, which is the module."""

    module: Any
    optimizers: Sequence[Any]

    def micro_batch(self, is_last: bool) -> AbstractContextManager[None]:
        self.module.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self.module.backward(loss)

    def step(self) -> Any:
        self.module.step()
        return self.module.get_global_grad_norm()

    def state(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        """The trained weights in float32, and the state of AdamW."""
        from deepspeed.utils import (  # pyright: ignore[reportMissingImports]  # no dependency of the package
            safe_get_full_fp32_param,
            safe_get_full_optimizer_state,
        )

        engine = self.module
        weights: dict[str, Tensor] = {}
        states: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self._trained():
            weights[name] = _kept(safe_get_full_fp32_param(parameter))
            kept = {key: _kept(safe_get_full_optimizer_state(parameter, key)) for key in _STATES}
            states[name] = {"step": torch.tensor(float(engine.global_steps)), **kept}
        groups = [
            {key: value for key, value in group.items() if key != "params"} for group in engine.optimizer.param_groups
        ]
        return weights, {"state": states, "param_groups": groups}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Put in what :meth:`state` gave.

        Raises:
            KeyError: for a checkpoint that lacks a parameter.
        """
        from deepspeed.utils import (  # pyright: ignore[reportMissingImports]
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
        )

        engine = self.module
        inner = engine.optimizer.optimizer
        steps = 0.0
        for group in inner.param_groups:
            for shard in group["params"]:  # AdamW makes its state with its first update; here it is needed before
                inner.state[shard] = {"step": torch.tensor(0.0)} | {key: torch.zeros_like(shard) for key in _STATES}
        # Private, and the only way to its shards by parameter that reads no pickled file.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._trained():
            safe_set_full_fp32_param(parameter, weights[name])
            parameter.copy_(weights[name])
            kept = state["state"][name]
            steps = float(kept["step"])
            for key in _STATES:
                safe_set_full_optimizer_state(parameter, kept[key], key)
        for shard_state in inner.state.values():
            shard_state["step"] = torch.tensor(steps)
        engine.global_steps = int(steps)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, value) for name, value in self.module.module.named_parameters() if value.requires_grad]


def _kept(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()
