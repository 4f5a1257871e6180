"""The ArcFace loss, the recogniser's file, and the figures it is judged by."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from likeness.recipes.faces.common import export_onnx, prefetched
from likeness.recipes.faces.networks import FaceEncoder
from likeness.recipes.faces.recogniser import ArcMargin
from likeness.recipes.faces.verification import auc_of, mean_interval, rank1_of, verify
from likeness.train.optimiser import MovingAverage, Optimiser


def test_margin_zero_is_a_softmax_over_cosines_and_a_margin_costs():
    torch.manual_seed(0)
    head = ArcMargin(7, 16, scale=30.0)
    embeddings, classes = torch.randn(5, 16), torch.tensor([0, 1, 2, 3, 6])
    cosines = F.normalize(embeddings) @ F.normalize(head.weight).T
    torch.testing.assert_close(head(embeddings, classes, 0.0), F.cross_entropy(30 * cosines, classes))
    losses = [head(embeddings, classes, margin).item() for margin in (0.0, 0.2, 0.4)]
    assert losses == sorted(losses) and losses[0] < losses[-1]


def test_margin_stays_monotonic_beyond_its_fold():
    head = ArcMargin(2, 2, scale=1.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1e-6]]))
    angles = torch.linspace(2.4, 3.1, 20)
    embeddings = torch.stack([angles.cos(), -angles.sin()], 1)
    losses = [head(e[None], torch.tensor([0]), 0.5).item() for e in embeddings]
    assert np.all(np.diff(losses) > 0)


def test_insightface_embeds_as_the_network_does(tmp_path):
    from insightface.model_zoo import get_model

    torch.manual_seed(0)
    encoder = FaceEncoder().eval()
    path = tmp_path / "arcface.onnx"
    export_onnx(encoder, torch.zeros(1, 3, 112, 112), path, outputs=["embedding"], dynamic={"input": {0: "batch"}})
    assert [file.name for file in tmp_path.iterdir()] == ["arcface.onnx"]
    model = get_model(str(path), providers=["CPUExecutionProvider"])
    assert type(model).__name__ == "ArcFaceONNX" and model.input_mean == 127.5
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1)
    found = model.get_feat([crop[..., ::-1] for crop in crops])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_auc_is_the_chance_that_a_genuine_pair_wins():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 20)) + 1.5 * np.eye(20)
    genuine, others = np.diag(scores), scores[~np.eye(20, dtype=bool)]
    expected = (genuine[:, None] > others[None]).mean()
    assert auc_of(scores)(np.ones(20)) == pytest.approx(expected)
    weights = np.ones(20)
    weights[3] = 0  # a person that was not drawn takes no part, as genuine or as other
    rest = np.delete(np.delete(scores, 3, 0), 3, 1)
    assert auc_of(scores)(weights) == pytest.approx(auc_of(rest)(np.ones(19)))


def test_rank1_is_the_share_of_galleries_won():
    scores = np.eye(50) + np.random.default_rng(0).random((50, 50)) * 0.5
    assert rank1_of(scores, 20).min() == 1
    noise = np.random.default_rng(1).random((400, 400))
    assert rank1_of(noise, 100).mean() == pytest.approx(0.01, abs=0.006)
    one_better = np.zeros((3, 3))
    one_better[0, 0], one_better[0, 1] = 1, 2
    assert rank1_of(one_better, 2)[0] == pytest.approx(0.5)


def test_verify_pairs_photographs_with_videos_of_the_same_person():
    people = np.arange(30)
    base = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0][:30]
    frames = np.repeat(people, 3)
    result = verify(base[::-1], people[::-1], base[frames], frames)
    assert result.auc.mean == 1 and result.rank1_of_100.mean == 1
    assert result.same.mean == pytest.approx(1) and abs(result.others.mean) < 1e-6
    shuffled = verify(base, np.roll(people, 1), base[frames], frames)
    assert shuffled.same.mean < 0.1


def test_intervals_hold_their_mean():
    interval = mean_interval(np.random.default_rng(0).normal(3, 1, 400))
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.low == pytest.approx(4 * 1 / 20, rel=0.15)


def test_optimiser_moves_convolutions_in_place_and_only_while_the_rate_lasts():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 3)
    optimiser = Optimiser(layer, rate=0.01)
    for progress, moves in ((0.5, True), (1.0, False)):
        before = layer.weight.detach().clone(), layer.bias.detach().clone()
        layer(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimiser.step(progress)
        assert layer.weight.grad is None
        assert torch.equal(before[0], layer.weight) != moves
        assert torch.equal(before[1], layer.bias) != moves


def test_moving_average_lies_between_start_and_end():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = MovingAverage(layer, decay=0.9)
    torch.nn.init.ones_(layer.weight)
    average.update(layer)
    average.copy_to(layer)
    assert 0 < layer.weight.item() < 1


def test_prefetching_keeps_the_order_and_raises_errors():
    def numbers():
        yield from range(5)
        raise ValueError("spent")

    found = []
    with pytest.raises(ValueError, match="spent"):
        for number in prefetched(numbers()):
            found.append(number)
    assert found == list(range(5))
