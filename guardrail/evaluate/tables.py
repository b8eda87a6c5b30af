"""Reads the files in which benchmarks are published: CSV, TSV and JSON Lines, each row with its line.

More lenient than the reader of training data in one point: some benchmarks were saved by spreadsheets as Windows-1252
or Latin-1, so where a file is not UTF-8 these are tried in turn; the encoding is part of the table and logged as a
warning. A broken row is an error, never skipped: a suite with rows missing would measure something else.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail import logs
from guardrail.errors import InvalidInput
from guardrail.evidence.adapter.safetensors_header import unambiguous
from guardrail.file_kinds import require_no_folder, require_text
from guardrail.plugins import suggestion

log = logs.logger(__name__)

ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")


@dataclass(frozen=True)
class Cells:
    """One row: its physical line (1-based) and its cells by column."""

    line: int
    cells: Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """A file's rows in order, its columns, and the encoding that it turned out to have."""

    file: str
    encoding: str
    columns: tuple[str, ...]
    rows: tuple[Cells, ...]

    def text(self, row: Cells, column: str) -> str:
        """The text of a cell, stripped.

        Raises:
            InvalidInput: it is missing, no text, or empty; the message names file and line.
        """
        value = row.cells.get(column)
        if not isinstance(value, str) or not value.strip():
            kind = "missing" if column not in row.cells else "empty" if value in (None, "") else type(value).__name__
            raise InvalidInput(f"{self.file}:{row.line}: the cell {column!r} is {kind or 'empty'}", expected="a text")
        return value.strip()

    def optional(self, row: Cells, column: str | None) -> str:
        """The text of a cell that may be missing or empty, stripped; "" where it is."""
        value = row.cells.get(column) if column else None
        return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def read_table(path: Path, header: Sequence[str] | None = None) -> Table:
    """Read ``.csv``, ``.tsv`` or ``.jsonl``.

    Args:
        path: the file.
        header: column names of a file that has none (``.tsv`` then takes quotes literally, as SST-2 has them).

    Raises:
        InvalidInput: no such file, no text, unknown suffix, empty, or a broken row (named by line).
    """
    text, encoding = _decode(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl"):
        raise InvalidInput(
            f"{path.name} has the suffix {suffix!r}", expected=".csv, .tsv or .jsonl", next_step="convert it"
        )
    rows = tuple(_json_lines(path.name, text) if suffix == ".jsonl" else _delimited(path.name, text, suffix, header))
    if not rows:
        raise InvalidInput(f"{path.name} has no rows", expected="at least one row")
    return Table(path.name, encoding, tuple(header or rows[0].cells), rows)


def need(table: Table, columns: Sequence[str]) -> None:
    """Raise InvalidInput where one of ``columns`` is missing, listing those there are."""
    for column in columns:
        if column not in table.columns:
            raise InvalidInput(
                f"{table.file} has no column {column!r}; it has {', '.join(table.columns)}",
                expected=", ".join(columns),
                next_step=suggestion(column, table.columns) or "is it the right file?",
            )


def roles(table: Table, columns: Mapping[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    """Role -> column: as named in ``columns``, else the column called like the role where there is one.

    Raises:
        InvalidInput: an unknown role, or a named column that is not there.
    """
    named = dict(columns or {})
    for role in named:
        if role not in known:
            raise InvalidInput(f"unknown role {role!r} in columns", expected="roles " + ", ".join(known))
    need(table, tuple(named.values()))
    return {role: role for role in known if role in table.columns} | named


def no_columns(columns: Mapping[str, str] | None, family: str) -> None:
    """Raise InvalidInput where columns are named for a published format, whose columns are fixed."""
    if columns:
        raise InvalidInput(
            f"columns are named for {family}, whose columns are fixed",
            expected="no columns",
            next_step="use the loader csv or jsonl for a file with other columns",
        )


def _decode(path: Path) -> tuple[str, str]:
    require_no_folder(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", next_step="check the path") from error
    if not data.strip():
        raise InvalidInput(f"{path} is empty", expected="at least one row")
    require_text(path.name, data)  # latin-1 would read any of it
    for encoding in ENCODINGS:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != ENCODINGS[0]:
            log.warning("%s is not UTF-8; read as %s", path.name, encoding)
        return text, encoding.removesuffix("-sig")
    raise InvalidInput(f"{path.name} has no known encoding", expected=", ".join(ENCODINGS))  # latin-1 reads any byte


def _json_lines(name: str, text: str) -> Iterator[Cells]:
    for line, row in enumerate(text.split("\n"), start=1):
        if row.strip():
            yield Cells(line, _object(name, line, row))


def _object(name: str, line: int, row: str) -> dict[str, object]:
    try:
        value = json.loads(row, object_pairs_hook=unambiguous)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError, too
        raise InvalidInput(f"{name}:{line}: broken JSON ({error})", expected="one JSON object on each line") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{name}:{line}: a row is {type(value).__name__}", expected="a JSON object")
    return value


def _delimited(name: str, text: str, suffix: str, header: Sequence[str] | None) -> Iterator[Cells]:
    literal = bool(header) and suffix == ".tsv"
    delimiter = "\t" if suffix == ".tsv" else ","
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        names = list(header) if header else next(reader)
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(names):
                raise InvalidInput(f"{name}:{line}: {len(cells)} cells", expected=f"{len(names)} cells in every row")
            if cells:
                yield Cells(line, dict(zip(names, cells, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidInput(
            f"{name}:{max(reader.line_num, 1)}: broken row ({error})", expected="valid quoting"
        ) from error
