"""What was written is read back through the registry before anybody is told that it is there.

An upload can succeed and reach nobody: a server without an artifact proxy (``--no-serve-artifacts``) names a directory,
and the client writes it on a disk of its own. Names and sizes are compared here; whoever verifies compares the bytes.
Not covered: a server that lists files and loses them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.registry.http.address import redacted
from guardrail.registry.read.reader import StoredFile

SHOWN = 3


def require_received(
    listed: Iterable[StoredFile], written: Mapping[str, int], tracking_uri: str, location: str
) -> None:
    """The files that are there are those that were written, by name and size.

    Args:
        listed: what the registry says of the run or logged model, asked as whoever verifies asks.
        written: the size of every file, by its path.
        tracking_uri: the server or store that was to receive them, for the message.
        location: where they were written to, as the store named it.

    Raises:
        InvalidInput: the registry does not give back what was written.
        ServiceUnavailable: it does not answer.
    """
    try:
        found = {entry.path: entry.size for entry in listed}
        wrong = sorted(path for path, size in written.items() if found.get(path) != size)
    except EvidenceInvalid as error:
        raise _lost(tracking_uri, location, error.got) from error
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise _lost(tracking_uri, location, f"of {len(written)} files it lacks {', '.join(wrong[:SHOWN])}{more}")


def sizes(directory: Path) -> dict[str, int]:
    """The size of every file below a directory, by its path."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


def _lost(tracking_uri: str, location: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"MLflow at {redacted(tracking_uri)} did not receive what was written to {redacted(location)}: {why}",
        expected="every file again when the registry is asked for it; no version was made and no alias moved",
        next_step="let the server take the files (mlflow server --serve-artifacts, with an experiment made since), or "
        "name a place that it and this machine share (--artifact-location s3://...), then promote again",
    )
