"""How threads of numerical libraries wait; imported before those libraries are."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let threads that wait sleep; to be called before torch is imported.

    On a CPU that other programs use too, threads that spin while they wait for one another make a video take minutes
    instead of seconds. A user's own setting stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
