"""Identity-preserving video generation: photographs of a person and a prompt in, a video out.

The public names are loaded when they are first used, so that `import likeness` costs next to nothing:

>>> import likeness
>>> pipeline = likeness.LikenessPipeline.from_pretrained("tiny")  # torch and diffusers are imported here
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from likeness.errors import UserError
    from likeness.method import CONCAT_ID, CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN, ST_DRC, Method
    from likeness.pipeline import LikenessPipeline

    __version__: str

__all__ = [
    "CONCAT_ID",
    "CONCAT_ID_WAN",
    "CONCAT_ID_WAN_ADALN",
    "ST_DRC",
    "LikenessPipeline",
    "Method",
    "UserError",
    "__version__",
]

_HOMES = {
    "CONCAT_ID": "likeness.method",
    "CONCAT_ID_WAN": "likeness.method",
    "CONCAT_ID_WAN_ADALN": "likeness.method",
    "ST_DRC": "likeness.method",
    "LikenessPipeline": "likeness.pipeline",
    "Method": "likeness.method",
    "UserError": "likeness.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("likeness")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'likeness' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
