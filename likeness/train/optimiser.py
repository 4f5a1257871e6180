"""Optimizers and the moving average of weights.

:class:`Optimiser` is what the small models of the tiny family learn fastest with: Muon for matrices and convolutions, AdamW for
the rest, under one warm-up and decay. :func:`optimizers_of` makes those of a training configuration.

Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix; a convolution is a matrix of its filters. At equal
steps it learned these small networks clearly faster than AdamW.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from likeness.train.config import Optimization


def optimizers_of(module: nn.Module, settings: Optimization) -> list[torch.optim.Optimizer]:
    """The optimizers of a module's trained parameters, at their peak learning rates.

    With Muon the matrices inside the blocks go to it; embeddings, tables, norms and what is outside of the blocks to AdamW.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    rate = settings.learning_rate
    made: list[torch.optim.Optimizer] = []
    if settings.name == "muon":
        matrices = [p for name, p in named if p.ndim == 2 and "blocks." in name and "scale_shift_table" not in name]
        ids = {id(parameter) for parameter in matrices}
        named = [(name, parameter) for name, parameter in named if id(parameter) not in ids]
        made.append(
            torch.optim.Muon(matrices, lr=rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
        plain = settings.plain_learning_rate
        rate = rate / 2 if plain is None else plain
    rest = [parameter for _, parameter in named]
    made.append(torch.optim.AdamW(rest, lr=rate, betas=settings.betas, weight_decay=settings.weight_decay))
    return made


class Optimiser:
    """Steps a module's parameters; the learning rate follows `progress` in 0..1, so that a run can be timed by a clock.

    Args:
        module: its parameters of two or more axes go to Muon, except those named in `plain`.
        rate: peak learning rate of both optimisers (Muon's update is scaled to AdamW's usual size).
        plain: parameters that AdamW takes although they are matrices (tables, such as class weights).
        plain_rate: peak learning rate of AdamW; that of Muon if None.
        warmup: share of the run over which the rate rises.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        rate: float,
        weight_decay: float = 0.02,
        plain: Iterable[nn.Parameter] = (),
        plain_rate: float | None = None,
        warmup: float = 0.05,
    ) -> None:
        apart = {id(parameter) for parameter in plain}
        self._warmup = warmup
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        rest = []
        plain_rate = rate if plain_rate is None else plain_rate
        for parameter in module.parameters():
            if parameter.ndim >= 2 and id(parameter) not in apart:
                # Muon takes 2-D parameters alone: a view that shares the convolution's storage.
                self._matrices.append((parameter, nn.Parameter(parameter.data.view(parameter.shape[0], -1))))
            else:
                rest.append(parameter)
        muon = torch.optim.Muon(
            [matrix for _, matrix in self._matrices],
            lr=rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = torch.optim.AdamW(rest, lr=plain_rate, weight_decay=0.0, betas=(0.9, 0.98))
        self._optimisers = ((muon, rate), (adamw, plain_rate))
        self._parameters = list(module.parameters())

    def step(self, progress: float) -> None:
        """One update from the gradients present, which are cleared; progress is the share of the run that is over."""
        scale = _one_cycle(progress, self._warmup)
        torch.nn.utils.clip_grad_norm_(self._parameters, 5.0)
        for parameter, matrix in self._matrices:
            gradient = parameter.grad
            matrix.grad = None if gradient is None else gradient.reshape(matrix.shape)
        for optimiser, rate in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * scale
            optimiser.step()
        for parameter in self._parameters:
            parameter.grad = None


def _one_cycle(progress: float, warmup: float) -> float:
    """Linear rise to 1, then a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (progress - warmup) / (1.0 - warmup))))


class MovingAverage:
    """An exponential moving average of a module's state: what is kept in the end."""

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        self._decay = decay
        self._num_updates = 0
        self._state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self._num_updates += 1
        # Young averages forget faster, or the initial weights would linger in short runs.
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        for name, value in module.state_dict().items():
            kept = self._state[name]
            if value.is_floating_point():
                kept.lerp_(value, 1 - decay)
            else:
                kept.copy_(value)

    def copy_to(self, module: nn.Module) -> None:
        module.load_state_dict(self._state)
