"""VBench's quality by networks whose answers are known, and from small random files in the official formats."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_faces import sample
from tiny_clip import write_clip
from torch import nn
from torch.nn import functional

from likeness.errors import CheckpointError
from likeness.evaluate import quality
from likeness.evaluate.networks import amt as amt_module
from likeness.evaluate.networks import clip as clip_module
from likeness.evaluate.networks import musiq as musiq_module
from likeness.evaluate.networks import raft as raft_module
from likeness.evaluate.networks.amt import AmtNetwork
from likeness.evaluate.networks.musiq import MusiqNetwork
from likeness.evaluate.networks.raft import RaftNetwork
from likeness.evaluate.quality import (
    AestheticQuality,
    DynamicDegree,
    ImagingQuality,
    MotionSmoothness,
    clip_pixels,
    imaging_pixels,
    top_flow,
    vbench,
)
from likeness.evaluate.types import BackendAbsent, Backends
from likeness.media import sha256_file


def video(num_frames: int, height: int = 128, width: int = 160) -> list[np.ndarray]:
    """Frame i is grey of the value i."""
    return [np.full((height, width, 3), index, np.uint8) for index in range(num_frames)]


class GreyClip:
    """Features: the mean of the pixels, undone from CLIP's normalisation, and 1."""

    image_size = 224

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[1:] == (3, 224, 224)
        grey = pixels[:, 0].mean((1, 2)) * 0.26862954 + 0.48145466
        return torch.stack([grey * 255, torch.ones(len(pixels))], 1)


def test_aesthetic_quality_is_the_mean_of_the_head_over_all_frames() -> None:
    head = nn.Linear(2, 1).requires_grad_(False)
    head.weight[:] = torch.tensor([[3.0, 4.0]])
    head.bias[:] = 1.0
    metric = AestheticQuality(GreyClip(), head, "", "vbench")  # type: ignore[arg-type]
    result = metric.measure(sample(video(20), []))
    curve = [(1 + (3 * grey + 4) / math.hypot(grey, 1)) / 10 for grey in range(20)]
    assert result.curves["aesthetic_quality"] == pytest.approx(curve, abs=1e-4)
    assert result.values["aesthetic_quality"] == pytest.approx(np.mean(curve), abs=1e-4)
    assert metric.indices(37, 24.0).tolist() == list(range(37))


class MeanMusiq:
    """The mean of a frame."""

    def score(self, pixels: torch.Tensor) -> np.ndarray:
        return pixels.mean((1, 2, 3)).numpy()


def test_imaging_quality_is_the_mean_over_all_frames() -> None:
    metric = ImagingQuality(MeanMusiq(), "", "vbench")  # type: ignore[arg-type]
    result = metric.measure(sample(video(35), []))
    assert result.curves["imaging_quality"] == pytest.approx([index / 100 for index in range(35)])
    assert result.values["imaging_quality"] == pytest.approx(0.17)


class KnownRaft:
    """A flow to the right of as many px as the grey of the first frame says, in a share of the px."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        assert first.shape == second.shape
        flow = np.zeros((*first.shape[:2], 2), np.float32)
        flow[: round(self.share * len(flow)), :, 0] = first[0, 0, 0]
        return flow


def moving(lengths: list[int], fps: float = 8.0, size: tuple[int, int] = (256, 320)):
    """A video whose pairs move by these px."""
    frames = [np.full((*size, 3), length, np.uint8) for length in [*lengths, 0]]
    return DynamicDegree(KnownRaft(), "", "vbench").measure(sample(frames, [], fps=fps))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lengths", "degree"),
    [
        ([7, 7, 7, 7] + [0] * 11, 1.0),  # 16 frames: 4 pairs of more than 6 px
        ([7, 7, 7] + [0] * 12, 0.0),
        ([6] * 15, 0.0),  # exactly the threshold does not count
        ([7] + [0] * 4, 0.0),  # 6 frames: round(1.5) is 2
        ([7, 7] + [0] * 3, 1.0),
        ([0], 1.0),  # two frames: round(0.5) is 0 pairs, VBench's rule
        ([], 0.0),  # no pair
    ],
)
def test_dynamic_degree_counts_pairs_that_move(lengths: list[int], degree: float) -> None:
    result = moving(lengths)
    assert result.values == {"dynamic_degree": degree} and result.status == "ok"
    assert result.curves["top_flow_px"] == pytest.approx(lengths)
    assert result.details == {"threshold_px": 6.0, "pairs_needed": round((len(lengths) + 1) / 4)}


def test_dynamic_degree_depends_on_the_shorter_side() -> None:
    assert moving([7] * 15, size=(320, 512)).values["dynamic_degree"] == 0.0  # 6 * 320 / 256 = 7.5 px
    assert moving([8] * 15, size=(512, 320)).values["dynamic_degree"] == 1.0


def test_dynamic_degree_takes_about_eight_frames_a_second() -> None:
    metric = DynamicDegree(KnownRaft(), "", "vbench")  # type: ignore[arg-type]
    assert metric.indices(81, 16.0).tolist() == list(range(0, 81, 2))
    assert metric.indices(49, 8.0).tolist() == list(range(49))
    assert metric.indices(10, 30.0).tolist() == [0, 4, 8]  # round(3.75)
    assert metric.indices(10, 2.0).tolist() == list(range(10))


def test_small_frames_are_told_and_not_guessed() -> None:
    result = moving([7] * 15, size=(120, 512))
    assert result.values == {"dynamic_degree": None} and result.status == "ok"
    assert result.reason == "RAFT needs frames of at least 121 px a side; these have 512 x 120"


class MeanAmt:
    """The mean of two frames."""

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return ((first.astype(int) + second) // 2).astype(np.uint8)


def smoothness(greys: list[int], size: tuple[int, int] = (128, 160)):
    frames = [np.full((*size, 3), grey, np.uint8) for grey in greys]
    return MotionSmoothness(MeanAmt(), "", "vbench").measure(sample(frames, []))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("greys", "curve"),
    [
        ([0, 10, 20, 30, 40], [0, 0]),  # as foretold
        ([0, 61, 20, 4, 40], [51, 26]),  # 10 and 30 were foretold
        ([0, 10, 20, 200], [0]),  # nothing follows the last frame, which does not count
        ([200, 0, 0], [100]),  # darker than foretold counts as brighter does
    ],
)
def test_motion_smoothness_is_how_well_odd_frames_are_foretold(greys: list[int], curve: list[int]) -> None:
    result = smoothness(greys)
    assert result.status == "ok"
    assert result.curves["motion_smoothness"] == pytest.approx([1 - difference / 255 for difference in curve])
    assert result.values["motion_smoothness"] == pytest.approx(1 - np.mean(curve) / 255)


def test_motion_smoothness_needs_three_frames_of_some_size() -> None:
    for result, words in (
        (smoothness([1, 2]), "the video has 2, and 3 are needed"),
        (smoothness([1, 2, 3], (112, 300)), "AMT needs frames of at least 113 px a side; these have 300 x 112"),
    ):
        assert result.values == {"motion_smoothness": None} and result.status == "ok" and words in result.reason


def test_top_flow_is_the_mean_of_the_fastest_twentieth() -> None:
    flow = np.zeros((10, 20, 2), np.float32)
    flow[0, :10] = [3, 4]  # 10 of 200 px: exactly 5 %
    flow[1, :3] = [0, 2]
    assert top_flow(flow) == pytest.approx(5)
    flow[0, 5:10] = 0
    assert top_flow(flow) == pytest.approx((5 * 5 + 3 * 2) / 10)


def test_frames_for_clip_are_scaled_without_averaging_and_cropped() -> None:
    """A row of px that alternates far above the scaled size aliases where averaging would make it grey."""
    stripes = np.zeros((1, 448, 448, 3), np.uint8)
    stripes[:, :, ::4] = 255
    pixels = clip_pixels(stripes, 224)
    assert pixels.shape == (1, 3, 224, 224)
    spread = (pixels * 0.26862954 + 0.48145466)[0, 0].std()
    assert spread > 0.2
    # 300 x 500 -> 224 x int(373.33); the middle 224 columns start at round(74.5) = 74, half to even.
    wide = np.random.default_rng(0).integers(0, 256, (1, 300, 500, 3), dtype=np.uint8)
    scaled = functional.interpolate(torch.from_numpy(wide).permute(0, 3, 1, 2).double(), (224, 373), mode="bicubic")
    back = clip_pixels(wide, 224)[0, 1] * 0.26130258 + 0.4578275
    assert (back * 255 - scaled[0, 1, :, 74:298]).abs().max() < 1e-2
    assert (back.min() < 0) or (back.max() > 1)  # overshoots are kept
    same = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    assert (
        clip_pixels(same, 224)[0, 0] * 0.26862954 + 0.48145466 - torch.from_numpy(same[0, ..., 0]) / 255
    ).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (512, 300, (512, 300)),
        (720, 1280, (288, 512)),
        (1280, 720, (512, 288)),
        (480, 720, (341, 512)),
        (30, 20, (30, 20)),
    ],
)
def test_frames_for_musiq_have_a_longer_side_of_at_most_512(height: int, width: int, expected: tuple[int, int]) -> None:
    pixels = imaging_pixels(np.full((1, height, width, 3), 77, np.uint8))
    assert tuple(pixels.shape[2:]) == expected
    assert (pixels - 77).abs().max() < 1e-4


def test_protocol_says_whether_the_weights_are_the_published_ones() -> None:
    assert vbench(True) == vbench(True, True) == "vbench"
    assert vbench(True, False) == vbench(False) == "vbench-unverified"


# ------------------------------------------------------------------------------ from files in the official formats


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Backends:
    folder = tmp_path_factory.mktemp("backends")
    torch.manual_seed(0)
    write_clip(folder / "clip")
    torch.save(nn.Linear(12, 1).state_dict(), folder / "head.pth")
    torch.save(MusiqNetwork(12, 20, 3, 2).state_dict(), folder / "musiq.pth")
    raft = RaftNetwork(8, 8, 8, radius=1).state_dict()
    torch.save({f"module.{name}": value for name, value in raft.items()}, folder / "raft.pth")
    torch.save({"state_dict": AmtNetwork((8, 8, 8, 10)).state_dict(), "epoch": 300}, folder / "amt-s.pth")
    return Backends(
        clip_large=str(folder / "clip"),
        aesthetic=folder / "head.pth",
        musiq=folder / "musiq.pth",
        raft=folder / "raft.pth",
        amt=folder / "amt-s.pth",
    )


BUILDERS = (quality.aesthetic_quality, quality.imaging_quality, quality.motion_smoothness, quality.dynamic_degree)


def test_metrics_from_files(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(musiq_module, "MusiqNetwork", lambda: MusiqNetwork(12, 20, 3, 2))
    monkeypatch.setattr(amt_module, "AmtNetwork", lambda: AmtNetwork((8, 8, 8, 10)))
    monkeypatch.setattr(raft_module, "RaftNetwork", lambda: RaftNetwork(8, 8, 8, radius=1))
    frames = list(np.random.default_rng(2).integers(0, 256, (3, 122, 122, 3), dtype=np.uint8))
    clips = [sample(frames, [], fps=16.0), sample(frames[1:], [])]
    hashes = set()
    for build in BUILDERS:
        metric = build(backends)
        assert metric.protocol == "vbench-unverified" and len(metric.weights) == 16 and not metric.needs_reference
        results = [metric.measure(clip) for clip in clips]
        assert [result.status for result in results] == ["ok", "ok"]
        for result in results[: 1 if metric.name == "motion_smoothness" else 2]:  # two frames have none between them
            value = result.values[metric.name]
            assert set(result.values) == set(metric.directions) == {build.__name__}
            assert value is not None and math.isfinite(value)
        hashes.add(metric.weights)
    assert len(hashes) == 4


@pytest.mark.parametrize(("build", "lacking"), [*zip(BUILDERS, ("aesthetic", "musiq", "amt", "raft"), strict=True)])
def test_an_absent_backend_is_named(build, lacking: str) -> None:
    with pytest.raises(BackendAbsent, match=f"backend absent: give --{lacking} PATH"):
        build(Backends())


def test_the_aesthetic_head_needs_its_clip(backends: Backends) -> None:
    with pytest.raises(BackendAbsent, match="--clip-large"):
        quality.aesthetic_quality(Backends(aesthetic=backends.aesthetic))


def test_published_bytes_give_vbenchs_protocol(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files stand for the published ones: it is their bytes that count."""
    digest = sha256_file(Path(str(backends.clip_large)) / "model.safetensors")
    head = replace(quality.AESTHETIC, published=sha256_file(Path(str(backends.aesthetic))))
    monkeypatch.setattr(quality, "AESTHETIC", head)
    assert quality.aesthetic_quality(backends).protocol == "vbench-unverified"  # the head alone
    monkeypatch.setitem(clip_module._PUBLISHED, digest, "ViT-L/14")
    assert quality.aesthetic_quality(backends).protocol == "vbench"
    monkeypatch.setitem(clip_module._PUBLISHED, digest, "ViT-B/32")
    with pytest.raises(CheckpointError, match="is CLIP ViT-B/32; --clip-large wants ViT-L/14"):
        quality.aesthetic_quality(backends)


def test_weights_of_the_wrong_model(backends: Backends, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a MUSIQ file; --raft wants RAFT"):
        quality.dynamic_degree(Backends(raft=backends.musiq))
    with pytest.raises(CheckpointError, match="is a RAFT file; --musiq wants MUSIQ"):
        quality.imaging_quality(Backends(musiq=backends.raft))
    torch.save(nn.Linear(768, 1).state_dict(), tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=r"has the shape \[1, 768\]; linear head has \[1, 12\]"):
        quality.aesthetic_quality(Backends(aesthetic=tmp_path / "head.pth", clip_large=backends.clip_large))
