"""Checkpoints in each published format, tiny and random: converted and used through the commands, as a user does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cogvideox_parts import cogvideox_parts
from published_names import sat_names, wan_names
from typer.testing import CliRunner

from likeness.backbones.load import load_backbone, load_method
from likeness.cli import app
from likeness.method import CONCAT_ID, CONCAT_ID_WAN
from likeness.pipeline import LikenessPipeline

SIZES = {"default_num_frames": 9, "default_height": 32, "default_width": 48, "default_fps": 8}
FORMATS = ["first-stage", "adaln", "sat"]


@pytest.fixture(scope="module")
def bases(random_wan_components, tiny_tokenizer, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    wan, cogvideox = root / "wan", root / "cogvideox"
    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN, **SIZES).save_pretrained(wan)
    LikenessPipeline(**cogvideox_parts(tiny_tokenizer), method=CONCAT_ID, **SIZES).save_pretrained(cogvideox)
    return {"first-stage": wan, "adaln": wan, "sat": cogvideox}


@pytest.fixture(scope="module")
def trained(bases) -> dict[str, dict]:
    """Format -> the state of another transformer than the base's, in diffusers' names."""
    wan, cogvideox = (
        {name: value + 0.05 for name, value in load_backbone(bases[kind]).transformer.state_dict().items()}
        for kind in ("adaln", "sat")
    )
    own = {f"condition_embedder.time_proj_ref.{end}": wan[f"condition_embedder.time_proj.{end}"] + 0.1
           for end in ("weight", "bias")}  # fmt: skip
    own |= {f"blocks.{n}.scale_shift_table_ref": wan[f"blocks.{n}.scale_shift_table"] - 0.1 for n in range(2)}
    return {"first-stage": wan, "adaln": wan | own, "sat": cogvideox}


def published(kind: str, state: dict) -> dict:
    """Under the published names; with what CogVideoX's training framework saves besides."""
    if kind != "sat":
        return wan_names(state)
    others = {"first_stage_model.encoder.weight": torch.ones(2), "conditioner.embedders.0.weight": torch.ones(2)}
    tables = {f"model.diffusion_model.mixins.pos_embed.freqs_{name}": torch.ones(2, 3) for name in ("sin", "cos")}
    return sat_names(state, 2) | others | tables


def save(kind: str, tensors: dict, folder: Path) -> Path:
    """As the authors do: a file, or a folder whose file `latest` names an iteration."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind != "sat":
        torch.save(tensors, folder / f"{kind}.pt")
        return folder / f"{kind}.pt"
    (folder / "1").mkdir()
    (folder / "latest").write_text("1")
    torch.save({"module": tensors, "iteration": 1}, folder / "1" / "mp_rank_00_model_states.pt")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def convert(kind: str, source: Path, base: Path, output: Path):
    named = ["--method", "concat-id-wan"] if kind == "first-stage" else []
    return run("convert", source, "--base", base, *named, "--output", output)


def refusal(result) -> str:
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and result.stdout == "" and line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("kind", "place", "people"),
    [
        ("first-stage", ".", ["ann"]),
        ("adaln", ".", ["ann"]),
        ("sat", "single-identity", ["ann"]),
        ("sat", "two-identities", ["ann", "bob"]),
    ],
)
def test_a_published_checkpoint_is_converted_and_generates(
    bases, trained, photographs, tmp_path, kind, place, people
) -> None:
    source = save(kind, published(kind, trained[kind]), tmp_path / place)
    converted = convert(kind, source, bases[kind], tmp_path / "model")
    assert converted.exit_code == 0 and converted.stdout.strip() == str(tmp_path / "model"), converted.output
    found = load_backbone(tmp_path / "model").transformer.state_dict()
    assert found.keys() == trained[kind].keys()
    assert all(found[name].equal(value) for name, value in trained[kind].items())
    references = [item for name in people for item in ("-r", photographs[name])]
    made = run("generate", "--model", tmp_path / "model", *references, "-p", "a man", "--steps", 2, "--device", "cpu",
               "-o", tmp_path / "v.mp4")  # fmt: skip
    assert made.exit_code == 0, made.output
    record = json.loads((tmp_path / "v.json").read_text())
    assert len(record["references"]) == len(people) and (tmp_path / "v.mp4").stat().st_size > 0
    assert record["method"]["name"] == {"first-stage": "concat-id-wan", "adaln": "concat-id-wan-adaln"}.get(
        kind, "concat-id"
    )
    assert load_method(tmp_path / "model").max_references == (4 if kind == "sat" else 1)


LOST = {
    "first-stage": "blocks.1.self_attn.q.weight",
    "adaln": "blocks.0.modulation_ref",
    "sat": "model.diffusion_model.transformer.layers.1.attention.query_key_value.bias",
}
BENT = {
    "first-stage": "head.modulation",
    "adaln": "time_projection_ref.1.weight",
    "sat": "model.diffusion_model.mixins.adaln_layer.adaLN_modulations.1.1.weight",
}
STRANGE = {
    "first-stage": "blocks.0.cross_attn.k_img.weight",
    "adaln": "blocks.1.modulation_extra",
    "sat": "model.diffusion_model.mixins.stranger.weight",
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fault", ["missing", "unknown", "of another shape"])
def test_a_tensor_that_does_not_fit_is_named(bases, trained, tmp_path, kind, fault) -> None:
    tensors = published(kind, trained[kind])
    if fault == "missing":
        name = LOST[kind]
        del tensors[name]
    elif fault == "unknown":
        name = STRANGE[kind]
        tensors[name] = torch.ones(3)
    else:
        name = BENT[kind]
        tensors[name] = torch.cat([tensors[name], tensors[name]])
    source = save(kind, tensors, tmp_path / "source")
    line = refusal(convert(kind, source, bases[kind], tmp_path / "model"))
    assert f"Tensors 1 {fault}: {name.removeprefix('model.diffusion_model.')}" in line, line
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("file", "entry", "words"),
    [
        ("transformer/config.json", {"patch_size_t": 2}, "patch_size_t = 2"),
        (
            "transformer/config.json",
            {"use_rotary_positional_embeddings": False},
            "use_rotary_positional_embeddings = False",
        ),
        (
            "transformer/config.json",
            {"use_learned_positional_embeddings": True},
            "use_learned_positional_embeddings = True",
        ),
        ("transformer/config.json", {"in_channels": 8}, "takes 8 channels where its VAE has 4"),
        ("transformer/config.json", {"num_layers": 3}, "it has 2 layers, the base 3"),
        ("vae/config.json", {"scaling_factor": 1.15258426}, "scaling_factor = 1.15258426"),
        ("scheduler/scheduler_config.json", {"snr_shift_scale": 3.0}, "snr_shift_scale = 3.0"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "prediction_type = 'epsilon'"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": False}, "rescale_betas_zero_snr = False"),
        ("scheduler/scheduler_config.json", {"beta_start": 0.0001}, "beta_start = 0.0001"),
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}, "beta_end = 0.02"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "beta_schedule = 'linear'"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "num_train_timesteps = 500"),
    ],
)
def test_a_cogvideox_base_of_another_kind_is_refused(bases, trained, tmp_path, file, entry, words) -> None:
    """1.5, 2b and image-to-video differ in these."""
    base = tmp_path / "base"
    shutil.copytree(bases["sat"], base)
    path = base / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    source = save("sat", published("sat", trained["sat"]), tmp_path / "source")
    line = refusal(convert("sat", source, base, tmp_path / "model"))
    assert words in line, line
    assert not (tmp_path / "model").exists()


def test_files_that_are_no_checkpoints(bases, tmp_path) -> None:
    """One line each, in words rather than in the parser's numbers."""
    whole = save("first-stage", {"a": torch.ones(1000)}, tmp_path).read_bytes()
    files = {"text.pt": b"hello", "empty.pt": b"", "cut.pt": whole[:2000]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        line = converting(tmp_path / name, bases["adaln"], tmp_path / "out")
        assert f"{name} is no checkpoint, or is broken or cut short" in line and "(101)" not in line, line
    assert "There is no file or folder none.pt" in converting(Path("none.pt"), bases["adaln"], tmp_path / "out")
    (tmp_path / "file").touch()
    line = converting(bases["adaln"], bases["adaln"], tmp_path / "file" / "out")
    assert f"{tmp_path / 'file'} is a file" in line


def converting(source: Path, base: Path, output: Path) -> str:
    return refusal(convert("first-stage", source, base, output))


@pytest.mark.parametrize("method", ["concat-id-wan", "concat-id-wan-adaln"])
def test_a_base_is_not_prepared_for_a_method_that_it_cannot_express(bases, tmp_path, method) -> None:
    line = refusal(run("convert", bases["sat"], "--method", method, "-o", tmp_path / "model"))
    assert method in line and not (tmp_path / "model").exists()


def test_another_size_is_told_in_few_names(bases, trained, tmp_path) -> None:
    shutil.copytree(bases["adaln"], tmp_path / "base")
    config = tmp_path / "base" / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 5}))
    source = save("first-stage", published("first-stage", trained["first-stage"]), tmp_path)
    line = refusal(convert("first-stage", source, tmp_path / "base", tmp_path / "model"))
    assert "it has 2 layers, the base 5" in line and len(line) < 500, line
