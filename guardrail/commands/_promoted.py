"""What ``promote`` and ``run`` share: promoting a run, and telling what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.commands import _output as show

if TYPE_CHECKING:
    from guardrail.evidence.keys.key_pairs import PrivateKey
    from guardrail.policy.load import LoadedPolicy


def promote(
    run_dir: Path,
    *,
    tracking_uri: str,
    key: PrivateKey,
    output: str,
    artifact_location: str | None = None,
    policy: LoadedPolicy | None = None,
) -> None:
    """Promote the run at ``run_dir`` and print its decision, also where persons must approve it first.

    Under another ``policy`` than the run's, if one is given.

    Raises:
        AwaitingApproval, PolicyDenied, EvidenceMissing: what the decision comes to, where it is no promotion.
    """
    from guardrail.pipeline.answer_errors import frequent
    from guardrail.pipeline.promotion import promote_run
    from guardrail.pipeline.run import Run
    from guardrail.records import Decision
    from guardrail.registry.record.promote import CandidateWaitsError

    try:
        decision, record = promote_run(
            run_dir,
            tracking_uri=tracking_uri,
            key=key,
            now=datetime.now(UTC),
            artifact_location=artifact_location,
            policy=policy,
        )
    except CandidateWaitsError as error:
        waits = Run(run_dir).require("decision", Decision)
        show.emit(waits, output, show.decision_lines(waits))
        show.say(*show.waiting_lines(waits, error, run_dir), err=output == "json")
        raise
    errors = frequent(Run(run_dir))
    show.emit(record, output, [*show.registered_lines(decision, record, run_dir), *show.error_lines(errors)])
    show.raise_unless_passed(decision, errors)
