from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.backbones.base import BackboneSpec
from likeness.conditioning.sequence import Sequence
from likeness.diffusion import RectifiedFlow
from likeness.errors import UserError
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, ST_DRC, Method, Stream
from likeness.sampling import denoise

SPEC = BackboneSpec(
    name="Toy", spatial_stride=8, temporal_stride=4, patch=(1, 2, 2), latent_channels=2, process=RectifiedFlow()
)


@dataclass
class ToyBackbone:
    """Predicts the exact velocity towards a clean video that depends on the conditions, and notes its calls."""

    spec: BackboneSpec = SPEC
    calls: list[tuple[float, bool, tuple[float, ...]]] = field(default_factory=list)

    def check_method(self, method: Method) -> None:
        pass

    def predict(self, sequence: Sequence, sigma: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        text = prompt_embeds.mean().item()
        references = tuple(item.mean().item() for item in sequence.references)
        self.calls.append((sigma[0].item(), text != 0, references))
        clean = torch.full_like(sequence.video, text + sum(references))
        return (sequence.video - clean) / sigma.view(-1, 1, 1, 1, 1)


NOISE = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
REFERENCE = torch.full((2, 2, 1, 4, 4), 0.5)
TEXT, NO_TEXT = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)


def run(backbone: ToyBackbone, method: Method, **kwargs) -> torch.Tensor:
    values = {
        "latents": NOISE,
        "references": (REFERENCE,),
        "prompt_embeds": TEXT,
        "negative_embeds": NO_TEXT,
        "num_inference_steps": 4,
        "streams": method.guidance.streams(),
        **kwargs,
    }
    return denoise(backbone, method, **values)


def test_arrives_where_the_streams_point() -> None:
    # Each stream points at a constant video, so their weighted sum does: 5 * 1.5 - 4 * 0.5 for joint guidance.
    joint = run(ToyBackbone(), CONCAT_ID_WAN)
    torch.testing.assert_close(joint, torch.full_like(joint, 5.5), atol=1e-4, rtol=0)
    decoupled = run(ToyBackbone(), ST_DRC)
    torch.testing.assert_close(decoupled, torch.full_like(decoupled, 7.5 * 1.5 - 2.5), atol=1e-4, rtol=0)


def test_a_stream_without_reference_sees_what_the_method_drops_to() -> None:
    absent, zeros = ToyBackbone(), ToyBackbone()
    run(absent, ST_DRC, num_inference_steps=1)
    run(zeros, replace(ST_DRC, dropped_reference="zeros"), num_inference_steps=1)
    assert absent.calls == [(1.0, False, ()), (1.0, True, ()), (1.0, True, (0.5,))]
    assert zeros.calls == [(1.0, False, (0.0,)), (1.0, True, (0.0,)), (1.0, True, (0.5,))]


def test_only_needed_streams_run() -> None:
    counts = {}
    for scales in ((5.0, 7.5), (5.0, 5.0), (1.0, 1.0)):
        backbone = ToyBackbone()
        run(backbone, ST_DRC, streams=ST_DRC.guidance.streams(*scales), negative_embeds=NO_TEXT)
        counts[scales] = len(backbone.calls) / 4
    assert counts == {(5.0, 7.5): 3, (5.0, 5.0): 2, (1.0, 1.0): 1}


@settings(deadline=None, max_examples=10)
@given(st.permutations(ST_DRC.guidance.streams()))
def test_order_of_streams_changes_nothing(streams: list[Stream]) -> None:
    assert run(ToyBackbone(), ST_DRC, streams=streams).equal(run(ToyBackbone(), ST_DRC))


def test_without_references_the_base_model_runs() -> None:
    backbone = ToyBackbone()
    run(backbone, CONCAT_ID, references=(), num_inference_steps=1)
    assert backbone.calls == [(1.0, False, ()), (1.0, True, ())]


def test_callback_sees_every_step_and_may_replace() -> None:
    seen, done = [], []
    result = run(
        ToyBackbone(),
        ST_DRC,
        callback=lambda step, sigma, latents: seen.append((step, sigma)) or torch.zeros_like(latents),
        progress=lambda *counts: done.append(counts),
    )
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert [sigma for _, sigma in seen] == SPEC.process.sigmas(4).tolist()
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert result.equal(torch.zeros_like(NOISE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inference_steps": -1}, "at least 1"),
        ({"streams": (Stream(0.5, True, True),)}, "sum to 0.5"),
        ({"negative_embeds": None}, "negative_embeds"),
        ({"references": (REFERENCE, REFERENCE)}, "at most 1"),
        ({"references": (REFERENCE[..., :2],)}, "Reference 0"),
    ],
)
def test_mistakes_are_explained(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(ToyBackbone(), ST_DRC, **change)
