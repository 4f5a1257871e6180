"""Processes that share a batch."""

import os

import torch
from torch import nn

from likeness.train.parallel import average_gradients, run_parallel


def _gradient_of(rank: int, processes: int, folder: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    data = torch.arange(12.0).view(4, 3)[rank * 4 // processes : (rank + 1) * 4 // processes]
    model(data).square().mean().backward()
    average_gradients(model.parameters())
    torch.save([p.grad for p in model.parameters()], os.path.join(folder, f"{processes}-{rank}.pt"))


def test_two_processes_average_to_the_gradient_of_twice_the_batch(tmp_path) -> None:
    for processes in (1, 2):
        run_parallel(_gradient_of, processes, str(tmp_path))
    alone, *both = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for of_rank in both:
        for one, averaged in zip(alone, of_rank, strict=True):
            torch.testing.assert_close(one, averaged)
