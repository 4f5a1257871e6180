"""Muon beside AdamW, and the average that is kept."""

import torch
from torch import nn

from likeness.train.optimiser import MovingAverage, Optimiser


def test_muon_takes_matrices_and_leaves_tables_to_adamw() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8))
    table = model[0].weight
    before = [p.detach().clone() for p in model.parameters()]
    optimiser = Optimiser(model, rate=0.01, plain=[table], weight_decay=0.0, warmup=0.0)
    (model(torch.tensor([1, 2, 3, 4] * 4)) * torch.randn(16, 8)).sum().backward()
    optimiser.step(0.0)
    moved = [(p.detach() - b) for p, b in zip(model.parameters(), before, strict=True)]
    assert not moved[0][0].any() and moved[0][1:].any()  # AdamW leaves rows without a gradient alone
    # The gradient has the rank of the four rows used; an orthogonalised step moves these directions alike.
    values = torch.linalg.svdvals(moved[1])[:4]
    assert values.min() > 0.3 * values.max()
    assert all(p.grad is None for p in model.parameters())


def test_the_average_follows() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    for _ in range(40):
        average.update(model)
    other = nn.Linear(2, 2)
    average.copy_to(other)
    torch.testing.assert_close(other.weight, model.weight, atol=1e-4, rtol=0)
