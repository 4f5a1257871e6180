"""How a module's processes share its updates: chosen once, when the module is prepared, and the same to the loop and to checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Updates(Protocol):
    """A module in training: gradients of some micro-batches, one step, and the state to go on from.

    Attributes:
        module: as the processes train it, wrapped or not.
        optimizers: of its parameters; the loop sets their learning rates.
    """

    @property
    def module(self) -> nn.Module: ...
    @property
    def optimizers(self) -> Sequence[Any]: ...

    def micro_batch(self, is_last: bool) -> AbstractContextManager[None]:
        """Around a micro-batch's losses and gradients, which travel between processes with the last one of an update alone."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients, averaged over those of an update."""
        ...

    def step(self) -> Any:
        """Clip, update and clear the gradients; returns their norm before, a number or a tensor."""
        ...

    def state(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        """The weights and the optimizers' state, whole and on the CPU, after an update at least. Every process calls it."""
        ...

    def load(self, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Put in what :meth:`state` gave, of the trained weights at least. Every process calls it."""
        ...


@dataclass(frozen=True, eq=False)
class PlainUpdates:
    """:class:`Updates` on one device, or under DDP or FSDP2.

    Attributes:
        accelerator: that the module runs on.
        accumulation: micro-batches of an update.
        max_norm: of the gradients of an update.
    """

    module: nn.Module
    optimizers: Sequence[Any]
    accelerator: Accelerator
    accumulation: int
    max_norm: float

    def micro_batch(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext() if is_last else self.accelerator.no_sync(self.module)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss / self.accumulation)

    def step(self) -> Any:
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.max_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return norm

    def state(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        weights, state = get_state_dict(self.module, list(self.optimizers), options=_FULL)
        return cast(dict[str, Tensor], weights), state

    def load(self, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        current = get_model_state_dict(self.module, options=_FULL)
        set_state_dict(
            self.module,
            list(self.optimizers),
            model_state_dict={**current, **weights},
            optim_state_dict=cast(Any, state),
            options=_FULL,
        )
