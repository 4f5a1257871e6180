"""Read a file of tensors as its authors saved it, without running anything that is in it."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from likeness.errors import CheckpointError


def read_tensor_file(file: Path) -> Any:
    """What a ``.safetensors`` file or a file of ``torch.save`` holds, on the CPU, mapped into memory where it can be.

    Raises:
        CheckpointError: for a file that is broken, or that would run code when it is opened.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it goes on to refuse
            # Only the zip format of torch can be mapped into memory; an older one has to be read.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # whatever a broken or crafted file makes a parser raise
        if type(error).__name__ == "UnpicklingError":
            raise CheckpointError(
                f"{file} holds more than tensors, or is not a checkpoint; it was not opened, because it could run code. "
                "Save its tensors as .safetensors where you trust it."
            ) from error
        lines = str(error).strip().splitlines()
        # What the parser of pickles says of other files is a number, or nothing.
        reason = f" ({lines[0]})" if lines and not lines[0].isdigit() else ""
        raise CheckpointError(f"{file} is no checkpoint, or is broken or cut short{reason}. Fetch it again.") from error
