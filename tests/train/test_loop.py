"""The loop learns, saves, goes on, and is the same on two processes as with twice the batch."""

import json
import os
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from likeness.errors import UserError
from likeness.method import CONCAT_ID
from likeness.train.loop import Schedule, train
from likeness.train.objective import Batch
from likeness.train.optimiser import MovingAverage, Optimiser
from likeness.train.parallel import average_gradients, run_parallel

METHOD = replace(CONCAT_ID, reference_noise=None, text_dropout=0.0, reference_dropout=0.0)


@pytest.fixture
def fixed_batch(random_wan_backbone) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = random_wan_backbone.spec.latent_shape(5, 32, 32)
    pixels = torch.rand((2, 3, 1, 32, 32), generator=generator) * 2 - 1
    embeds = random_wan_backbone.encode_text(["a man", "a woman"]).detach()
    return Batch(torch.randn((2, *shape), generator=generator), (pixels,), embeds)


def _train(shared, batch: Batch, folder, steps: int) -> MovingAverage:
    backbone = replace(shared, transformer=deepcopy(shared.transformer).requires_grad_(True).train())
    schedule = Schedule(steps=steps, rate=5e-3, plain_rate=5e-3, average_decay=0.9)
    empty = backbone.encode_text([""]).detach()
    return train(backbone, METHOD, lambda progress: batch, empty, schedule, folder)


def test_the_loss_falls_and_the_state_is_kept(random_wan_backbone, fixed_batch, tmp_path) -> None:
    _train(random_wan_backbone, fixed_batch, tmp_path, steps=150)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == rows[-1]["step"] and set(state["average"]["state"]) == set(
        random_wan_backbone.transformer.state_dict()
    )


def test_a_finished_run_is_not_run_again(random_wan_backbone, fixed_batch, tmp_path) -> None:
    _train(random_wan_backbone, fixed_batch, tmp_path, steps=4)
    average = _train(random_wan_backbone, fixed_batch, tmp_path, steps=4)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4
    kept = torch.load(tmp_path / "state.pt", weights_only=True)["average"]["state"]
    assert all(torch.equal(value, kept[name]) for name, value in average.state_dict()["state"].items())


def test_a_run_goes_on_from_its_state(random_wan_backbone, fixed_batch, tmp_path) -> None:
    _train(random_wan_backbone, fixed_batch, tmp_path, steps=4)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4
    _train(random_wan_backbone, fixed_batch, tmp_path, steps=7)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 7


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


def test_the_average_follows_and_comes_back_from_its_state() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    for _ in range(40):
        average.update(model)
    other = nn.Linear(2, 2)
    restored = MovingAverage(other, 0.5)
    restored.load_state_dict(average.state_dict())
    restored.copy_to(other)
    torch.testing.assert_close(other.weight, model.weight, atol=1e-4, rtol=0)


def test_a_run_has_one_length(tmp_path) -> None:
    for lengths in ({}, {"minutes": 1.0, "steps": 2}):
        with pytest.raises(UserError, match="one of the two"):
            Schedule(**lengths)
    assert Schedule(minutes=2).progress(99, 60) == 0.5 and Schedule(steps=4).progress(1, 999) == 0.25
