"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""
Done = Callable[[int, int], None]
"""How much is done, and how much there is."""
Tick = Callable[[int], None]
"""How much was done since the last call."""
