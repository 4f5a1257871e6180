"""Every metric by its name. A metric is built when it is asked for, from the weights that the user gave.

To add one: write a function ``Backends -> Metric`` in the module of its kind, which raises
:class:`~likeness.evaluate.types.BackendAbsent` (through :meth:`Backends.need`) where its weights were not given, and name
it here.
"""

from __future__ import annotations

from collections.abc import Callable

from likeness.evaluate.types import Backends, Metric

METRICS: dict[str, Callable[[Backends], Metric]] = {}
