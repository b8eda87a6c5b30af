"""The training data as the stages see it: samples with ids, the file's digest, and a canonical way to write them.

What is read is what is hashed: the file is read once. A sample's id is the file's own where every row has a distinct
one, else ``row-<line>`` (``row-<number>`` where several rows share a line). Not covered: data that does not fit in
memory, and anything about what the texts mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from guardrail.atomic import write_atomically
from guardrail.data.columns import Columns, Form, resolve
from guardrail.data.forms import sample
from guardrail.data.rows import Row, read_bytes, read_rows
from guardrail.errors import InvalidInput
from guardrail.evidence.digest import canonical, sha256
from guardrail.records import Frozen, Sha256
from guardrail.samples import Sample


class Dataset(Frozen):
    """A data file: its name (no directory), the digest of its bytes, its form and its samples in order."""

    source: str
    digest: Sha256
    form: Form
    samples: tuple[Sample, ...]


def load_dataset(path: Path, columns: Columns | None = None, ignored: Collection[str] = ()) -> Dataset:
    """Read a data file in chat, instruction or prompt/completion form.

    Args:
        path: ``.jsonl``, ``.json`` (an array), ``.csv``, ``.tsv`` or ``.parquet``.
        columns: role -> column name where they differ (:func:`guardrail.data.columns.resolve`).
        ignored: columns, and as ``messages.name`` keys of turns, that need not be read.

    Raises:
        InvalidInput: the file or any one of its rows is not what it should be; the message names file and line.
    """
    data = read_bytes(path)
    rows = read_rows(path.name, data)
    form, where = resolve(path.name, rows, columns, ignored)
    ids = _ids(path.name, rows, where.get("id"), explicit="id" in (columns or {}))
    samples = tuple(
        sample(path.name, row, form, where, ignored).model_copy(update={"id": id_})
        for row, id_ in zip(rows, ids, strict=True)
    )
    return Dataset(source=path.name, digest=sha256(data), form=form, samples=samples)


def samples_bytes(samples: Iterable[Sample]) -> bytes:
    """Canonical JSON Lines: one ``{"id", "messages"}`` on each line; reads back as chat form with the same ids."""
    return b"".join(canonical(_plain(one)) + b"\n" for one in samples)


def _plain(sample: Sample) -> dict[str, object]:
    return {"id": sample.id, "messages": [turn.model_dump() for turn in sample.messages]}


def samples_digest(samples: Iterable[Sample]) -> str:
    """SHA-256 of the canonical JSON Lines; line numbers do not count, order does."""
    return sha256(samples_bytes(samples))


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write canonical JSON Lines atomically: a reader sees the old file or the whole new one.

    Raises:
        ServiceUnavailable: the disk is full, read-only or otherwise refuses.
    """
    write_atomically(path, samples_bytes(samples))


def _ids(name: str, rows: tuple[Row, ...], column: str | None, *, explicit: bool) -> tuple[str, ...]:
    given = [row.fields.get(column) for row in rows] if column is not None else []
    own = [str(value) for value in given if isinstance(value, str | int) and str(value).strip()]
    if own and len(set(own)) == len(rows) and all(id_.isprintable() for id_ in own):
        return tuple(own)
    if explicit:
        twice = [id_ for id_, count in Counter(own).items() if count > 1]
        raise InvalidInput(
            f"{name}: the id column {column!r} has {len(twice)} repeated and {len(rows) - len(own)} missing values",
            expected="a distinct id in every row",
            next_step="leave the id column out: rows are then named by line",
        )
    lines = [row.line for row in rows]
    numbers = lines if len(set(lines)) == len(lines) else range(1, len(lines) + 1)
    return tuple(f"row-{number}" for number in numbers)
