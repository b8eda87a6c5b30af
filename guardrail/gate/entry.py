"""What the registry store's entry points name: MLflow loads them in every client, which must not import its server.

Not covered: anything else (``gate/store/gated_store.py`` is the store).
"""

from __future__ import annotations

from typing import Any


def gated_store(store_uri: str, **given: Any) -> Any:
    """The store behind a ``gated+…`` address, imported when there is one; what else MLflow gives is for clients."""
    from guardrail.gate.store.gated_store import GatedStore

    del given
    return GatedStore(store_uri)
