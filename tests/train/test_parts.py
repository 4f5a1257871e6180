"""What a run opens follows its configuration."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from training_pairs import make_pairs, write_list

from likeness.faces.pack import FacePack
from likeness.method import CONCAT_ID_WAN, IdentityLoss
from likeness.recipes.training import recipe
from likeness.train.config import Data
from likeness.train.parts import open_parts


@pytest.mark.parametrize("flipped", [(), ("face",)])
def test_the_methods_flips_reach_the_loader(random_pipeline, tmp_path, flipped) -> None:
    random_pipeline.save_pretrained(tmp_path / "model")
    pairs = make_pairs(tmp_path, 8)
    method = replace(CONCAT_ID_WAN, flipped_kinds=flipped)
    data = Data(pairs=(str(write_list(tmp_path, pairs)),), height=32, width=32, num_frames=5, fps=8.0, workers=0)
    config = replace(
        recipe("tiny-concat-id-stage1"), model=str(tmp_path / "model"), method=method, data=data, batch_size=8, micro_batch_size=8,
        precision="fp32", attention_backend=None, face_weight=1.0,
    )  # fmt: skip
    loader = open_parts(config, Accelerator(cpu=True)).loader
    first, second = (loader.batch(index) for index in range(2))
    # Two epochs of eight pairs: each is shown twice, and mirrored once in a while.
    by_clip = dict(zip(map(_key, first.latents), first.references[0], strict=True))
    changed = [
        not torch.equal(by_clip[_key(latents)], reference)
        for latents, reference in zip(second.latents, second.references[0], strict=True)
    ]
    assert any(changed) == bool(flipped)


@pytest.mark.parametrize(
    ("loss", "embedded"), [(None, False), (IdentityLoss(target="video"), False), (IdentityLoss(), True)]
)
def test_face_models_run_for_losses_that_compare_with_the_reference_alone(
    random_pipeline, tmp_path, monkeypatch, loss, embedded
) -> None:
    """They take as long as a small model's step, so that a run which only weighs faces should not wait for them."""
    random_pipeline.save_pretrained(tmp_path / "model")
    data = Data(
        pairs=(str(write_list(tmp_path, make_pairs(tmp_path, 2))),),
        height=32,
        width=32,
        num_frames=5,
        fps=8.0,
        workers=0,
    )
    config = replace(
        recipe("tiny-concat-id-stage1"), model=str(tmp_path / "model"), data=data, batch_size=2, micro_batch_size=2,
        method=replace(CONCAT_ID_WAN, identity_loss=loss), precision="fp32", attention_backend=None, face_weight=4.0,
    )  # fmt: skip
    looks = []
    detect = FacePack.detect
    monkeypatch.setattr(FacePack, "detect", lambda self, *args, **more: looks.append(1) or detect(self, *args, **more))
    batch = open_parts(config, Accelerator(cpu=True)).loader.batch(0)
    assert bool(looks) == embedded == (batch.reference_embeddings is not None)


def _key(latents: torch.Tensor) -> bytes:
    return latents.numpy().tobytes()
