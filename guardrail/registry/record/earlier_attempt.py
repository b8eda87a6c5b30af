"""Whether what an earlier promotion left in MLflow can be gone on with: it was found by a tag, which proves nothing.

Whoever may write to MLflow can log anything under the digest of evidence, finished or not, before it is promoted.
So the files are compared with those that are to be stored, and what cannot be read is not gone on with.
Not covered: metrics, descriptions and other tags.
"""

from __future__ import annotations

from guardrail.errors import GuardrailError
from guardrail.evidence.digest import manifest
from guardrail.records import FileDigest
from guardrail.registry.read.reader import Files, download, walk
from guardrail.registry.verify.verify import workplace

MOST = 10
"""So many are looked at, newest first, before a new one is made."""


def usable(source: Files, root: str, ours: tuple[FileDigest, ...], *, finished: bool) -> bool:
    """Whether the files at ``root`` are ``ours``: all of them if it is finished, else as far as they are there.

    Whatever goes wrong with a leftover, it is somebody's who may not have wanted us to go on: a new one is made then,
    and where MLflow itself does not work, that says so.
    """
    from mlflow.exceptions import MlflowException

    sizes = {entry.path: entry.size for entry in ours}
    try:
        found = {entry.path: entry.size for entry in walk(source, root)}
        if not finished:
            return set(found) <= set(sizes)
        if found != sizes:
            return False
        with workplace() as place:
            download(source, root, place, sum(sizes.values()))
            return manifest(place) == ours
    except (GuardrailError, MlflowException, OSError):
        return False
