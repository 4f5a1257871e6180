"""What a base must be for a folder of CogVideoX's training framework, which has no configuration that says so.

Concat-ID was trained from CogVideoX-5b (1.0): other models of the family have other transformers, latents of another
scale or another noise schedule, of which the last two would only be seen in the videos.
"""

from __future__ import annotations

import json
from pathlib import Path

from likeness.errors import CheckpointError

# Part -> entry of its configuration -> (what CogVideoX-5b has, what a file that leaves it out means in diffusers).
_WANTED: dict[str, dict[str, tuple[object, object]]] = {
    "transformer/config.json": {
        "patch_size_t": (None, None),
        "use_rotary_positional_embeddings": (True, False),
        "use_learned_positional_embeddings": (False, False),
    },
    "vae/config.json": {"scaling_factor": (0.7, 1.15258426)},
    "scheduler/scheduler_config.json": {
        "prediction_type": ("v_prediction", "epsilon"),
        "rescale_betas_zero_snr": (True, False),
        "snr_shift_scale": (1.0, 3.0),
        "beta_start": (0.00085, 0.00085),
        "beta_end": (0.012, 0.012),
        "beta_schedule": ("scaled_linear", "scaled_linear"),
        "trained_betas": (None, None),
        "num_train_timesteps": (1000, 1000),
    },
}


def check_sat_base(base: Path) -> None:
    """Refuse a base other than CogVideoX-5b (1.0), of any size.

    Raises:
        CheckpointError: naming the file and the entry that differs.
    """
    for name, entries in _WANTED.items():
        config = json.loads((base / name).read_text(encoding="utf-8"))
        for key, (wanted, default) in entries.items():
            found = config.get(key, default)
            if found != wanted:
                raise CheckpointError(
                    f"{base / name} has {key} = {found!r}, but Concat-ID on CogVideoX was trained with {wanted!r}; take "
                    "CogVideoX-5b (1.0) as the base."
                )
    channels = json.loads((base / "transformer/config.json").read_text(encoding="utf-8")).get("in_channels", 16)
    latent = json.loads((base / "vae/config.json").read_text(encoding="utf-8")).get("latent_channels", 16)
    if channels != latent:
        raise CheckpointError(
            f"The transformer of {base} takes {channels} channels where its VAE has {latent}, as an image-to-video model "
            "does; take the text-to-video model CogVideoX-5b (1.0) as the base."
        )
