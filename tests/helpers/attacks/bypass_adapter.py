"""Attempts of whoever holds the deciding key and a client that checks nothing: signed adapters that measure as another.

Evidence is whole and signed by everybody whom the trust file asks for; only the adapter is not what was measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from adapter_tricks import ATTEMPTED, Trick
from bypass import Target

from guardrail.evidence.bundle import write


class UnexplainedError(Exception):
    """It was refused, but for another reason than the trick."""


def proposed(trick: Trick, target: Target) -> None:
    """Log the adapter with its evidence and make a version of it; the gate's answer must name the trick."""
    from mlflow.exceptions import MlflowException

    folder = target.scratch / re.sub(r"\W+", "-", trick.name)
    bundle = target.prove(folder / "adapter", trick.change)
    (folder / "laid").mkdir()
    write(bundle, folder / "laid")
    model = target.client.create_logged_model("0", name="adapter")
    target.client.log_model_artifacts(model.model_id, str(folder / "laid"))
    target.client.finalize_logged_model(model.model_id, "READY")
    try:
        target.client.create_model_version(target.name, f"models:/{model.model_id}", model_id=model.model_id)
    except MlflowException as error:
        if not re.search(trick.answer, str(error), re.DOTALL):
            raise UnexplainedError(str(error)) from error
        raise


MOVES: dict[str, Callable[[Target], None]] = {
    f"signed adapter, {trick.name}": partial(proposed, trick) for trick in ATTEMPTED
}
"""Name to what is done; ``bypass_attempts.py`` makes an attempt of each."""
