"""The exponential moving average of a module's trained parameters, sharded or not: what a run keeps in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from likeness.train.checkpoint import bare_name


class ParameterAverage:
    """Follows the parameters that have gradients; a shard follows its shard.

    Args:
        module: as it is trained, wrapped or not.
        decay: share of the old average that stays at each update, in the long run: young averages forget faster, or the
            initial weights would linger in short runs.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.num_updates = 0
        self._decay = decay
        self._parameters = trained_parameters(module)
        self._values = {name: parameter.detach().clone().float() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        self.num_updates += 1
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, parameter in self._parameters.items():
            self._values[name].lerp_(parameter.float(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the average for its weights meanwhile."""
        with torch.no_grad():
            kept = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
            for name, parameter in self._parameters.items():
                parameter.copy_(self._values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(kept[name])

    def gathered(self) -> dict[str, Tensor]:
        """The whole average on the CPU, by the parameters' names. Every process of a sharded run calls it."""
        return {name: gather(value) for name, value in self._values.items()}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from what :meth:`gathered` gave."""
        self.num_updates = num_updates
        for name, value in self._values.items():
            whole = values[name].to(value.device)
            if isinstance(value, DTensor):
                whole = distribute_tensor(whole, value.device_mesh, value.placements)
            value.copy_(whole)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that have gradients, by their names without what wrappers add."""
    return {bare_name(name): value for name, value in module.named_parameters() if value.requires_grad}


def gather(value: Tensor) -> Tensor:
    """A whole tensor on the CPU; of a shard, from all processes."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).to("cpu", copy=True)
