"""How a refusal reaches a client: an MLflow error with our message, recognisable on the other side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from guardrail.errors import AwaitingApproval, EvidenceInvalid, GuardrailError, PolicyDenied, ServiceUnavailable
from guardrail.gate.refusal_log import log_refusal
from guardrail.registry.mlflow.mlflow_client import AWAITS, DENIES, GATE

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException


BEGINS = {AwaitingApproval: AWAITS, PolicyDenied: DENIES}


def refusal(error: GuardrailError) -> MlflowException:
    """403 for what is not allowed, 503 for what may work later; the server's log says who was refused what."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE

    log_refusal(error)
    code = TEMPORARILY_UNAVAILABLE if isinstance(error, ServiceUnavailable) else PERMISSION_DENIED
    return MlflowException(BEGINS.get(type(error), GATE) + error.message(), error_code=code)


def unproven(what: str, name: str, next_step: str = "") -> EvidenceInvalid:
    """The refusal of a change that nobody may make to a guarded model."""
    return EvidenceInvalid(
        f"{what} of the guarded model {name!r} is not for clients to change",
        expected="`guardrail promote` with evidence that the pinned policy admits",
        next_step=next_step or "promote an adapter, or have the model taken out of the trust file by its root keys",
    )


@contextmanager
def refusing() -> Iterator[None]:
    """Turn our errors into MLflow's."""
    try:
        yield
    except GuardrailError as error:
        raise refusal(error) from error
