"""Which of diffusers' step caches fit guidance whose streams run one after the other."""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from typing import Any

from diffusers import FasterCacheConfig, PyramidAttentionBroadcastConfig

from likeness.errors import UserError


def check_step_cache(transformer: Any) -> None:
    """Refuse a cache that keeps one state for all streams, and so would hand one stream's results to the next.

    Raises:
        UserError: naming the cache and those that keep a state a stream.
    """
    config = getattr(transformer, "_cache_config", None)
    if isinstance(config, FasterCacheConfig | PyramidAttentionBroadcastConfig):
        raise UserError(
            f"The transformer has {type(config).__name__}, which keeps one state for all guidance streams; they would "
            "read each other's. Call transformer.disable_cache() and use FirstBlockCacheConfig or another that keeps one "
            "state a stream."
        )
