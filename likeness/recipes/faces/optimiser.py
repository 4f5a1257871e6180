"""Muon for matrices and convolutions, AdamW for the rest, under one warm-up and decay.

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


class Optimiser:
    """Steps a module's parameters; the learning rate follows `progress` in 0..1, so that a run can be timed by a clock.

    Args:
        module: its parameters of two or more axes go to Muon, except those named in `plain`.
        rate: peak learning rate of both optimisers (Muon's update is scaled to AdamW's usual size).
        plain: parameters that AdamW takes although they are matrices (tables, such as class weights).
        warmup: share of the run over which the rate rises.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        rate: float,
        weight_decay: float = 0.02,
        plain: Iterable[nn.Parameter] = (),
        warmup: float = 0.05,
    ) -> None:
        apart = {id(parameter) for parameter in plain}
        self._rate, self._warmup = rate, warmup
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        rest = []
        for parameter in module.parameters():
            if parameter.ndim >= 2 and id(parameter) not in apart:
                # Muon takes 2-D parameters alone: a view that shares the convolution's storage.
                self._matrices.append((parameter, nn.Parameter(parameter.data.view(parameter.shape[0], -1))))
            else:
                rest.append(parameter)
        self._muon = torch.optim.Muon(
            [matrix for _, matrix in self._matrices],
            lr=rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
        self._parameters = list(module.parameters())

    def step(self, progress: float) -> None:
        """One update from the gradients present, which are cleared; progress is the share of the run that is over."""
        rate = self._rate * _one_cycle(progress, self._warmup)
        torch.nn.utils.clip_grad_norm_(self._parameters, 5.0)
        for parameter, matrix in self._matrices:
            gradient = parameter.grad
            matrix.grad = None if gradient is None else gradient.reshape(matrix.shape)
        for optimiser in (self._muon, self._adamw):
            for group in optimiser.param_groups:
                group["lr"] = rate
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
