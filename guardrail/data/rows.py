"""Reads a data file into rows that know their line: JSON Lines, a JSON array, CSV, TSV or Parquet.

Strict on purpose: a broken line stops the reading and is named, because a row that is skipped silently is a row that
nobody validated. Lines are physical lines (a quoted CSV field may span several); Parquet has none, so its row number
stands in. A key that an object has twice is a broken row: which of its values counts would be anybody's guess.
Not covered: compressed files, other encodings than UTF-8 (they are named; convert first), files above 2 GB.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from guardrail.errors import InvalidInput
from guardrail.evidence.adapter.safetensors_header import unambiguous
from guardrail.file_kinds import PARQUET, decoded, kind_of, require_no_folder, require_text

LARGEST = 2 * 1024**3
"""Bytes; a file above is refused, since it is read whole so that what is hashed is what is parsed."""

AT_ONCE = 4096
"""Parquet rows that are turned into Python values together."""


@dataclass(frozen=True)
class Row:
    """One row as the file has it: ``line`` is 1-based; ``fields`` by column; a bare list is the column ``messages``."""

    line: int
    fields: Mapping[str, object]


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The file, whole.

    Raises:
        InvalidInput: it is missing, a folder, no file, unreadable, empty or above ``largest`` bytes.
    """
    try:
        require_no_folder(path)
        if not path.is_file():
            raise InvalidInput(f"no such file: {path}", expected="a data file", next_step="check the path")
        if path.stat().st_size > largest:
            raise InvalidInput(
                f"{path} has {path.stat().st_size:,} bytes",
                expected=f"at most {largest:,} bytes",
                next_step="split the file and validate each part",
            )
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    if not data.strip():
        raise InvalidInput(f"{path} is empty", expected="at least one row", next_step="check how the file was made")
    return data


def read_rows(name: str, data: bytes) -> tuple[Row, ...]:
    """The rows of the file called ``name`` (its suffix decides the format) with the bytes ``data``.

    Raises:
        InvalidInput: unknown suffix, no text or Parquet, a broken row (named by line), or no row at all.
    """
    suffix = Path(name).suffix.lower()
    if suffix != ".parquet" or kind_of(data) is not PARQUET:
        require_text(name, data)
    reader = _READERS.get(suffix)
    if reader is None:
        raise InvalidInput(
            f"{name} has the unknown suffix {suffix!r}",
            expected="one of " + ", ".join(_READERS),
            next_step="rename or convert the file",
        )
    rows = tuple(reader(name, data))
    if not rows:
        raise InvalidInput(f"{name} has no rows", expected="at least one row", next_step="check how the file was made")
    return rows


def _jsonl(name: str, data: bytes) -> Iterator[Row]:
    for line, text in enumerate(decoded(name, data).split("\n"), start=1):
        if text.strip():
            yield _row(name, line, _parse(name, line, text))


def _json(name: str, data: bytes) -> Iterator[Row]:
    text = decoded(name, data)
    start = _blank(text, 0)
    if text[start : start + 1] == "[":
        yield from _array(name, text, start)
        return
    _require_lines(name, text, start)
    yield from _jsonl(name, data)


def _require_lines(name: str, text: str, start: int) -> None:
    """Refuse one object over several lines: rows inside of it are not read, and guessing which they are would be."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return  # reading by lines says where
    if "\n" in text[start:end]:
        inside = [key for key, rows in value.items() if isinstance(rows, list)] if isinstance(value, dict) else []
        raise InvalidInput(
            f"{name} holds one JSON {type(value).__name__.replace('dict', 'object')} over several lines"
            + (f"; its rows may be under {', '.join(map(repr, inside))}" if inside else ""),
            expected="an array of rows, or one row on each line",
            next_step="write the array of rows by itself, or each row on one line",
        )


def _array(name: str, text: str, start: int) -> Iterator[Row]:
    line, seen, position = 1, 0, _blank(text, start + 1)
    while text[position : position + 1] != "]" or seen:
        line, seen = line + text.count("\n", seen, position), position
        value, end = _element(name, line, text, position)
        yield _row(name, line, value)
        position = _blank(text, end)
        if text[position : position + 1] == "]":
            break
        if text[position : position + 1] != ",":
            raise InvalidInput(f"{name}:{line}: after this row comes neither a comma nor ]", expected="a JSON array")
        position = _blank(text, position + 1)
    if text[position + 1 :].strip():
        raise InvalidInput(f"{name}: more text follows the JSON array", expected="one array and nothing else")


def _blank(text: str, position: int) -> int:
    """The first position from ``position`` on that is not JSON white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _element(name: str, line: int, text: str, position: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "lineno", line)
        raise InvalidInput(
            f"{name}:{at}: broken JSON ({why_not_json(error)})", expected="an array of objects"
        ) from error


def _parse(name: str, line: int, text: str) -> object:
    try:
        return json_value(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{name}:{line}: broken JSON ({why_not_json(error)})",
            expected="one JSON object on each line",
            next_step="repair or remove the line",
        ) from error


def json_value(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError, RecursionError: it is broken, or an object has a key twice (:func:`why_not_json` says which).
    """
    return json.loads(text, object_pairs_hook=unambiguous)


_DECODER = json.JSONDecoder(object_pairs_hook=unambiguous)


def why_not_json(error: Exception) -> str:
    """In words, why :func:`json_value` raised ``error``."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number has too many digits" if str(error).startswith("Exceeds the limit") else str(error)


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, blank, or a list or object of nothing else (Parquet fills in whole keys)."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, list):
        return all(map(is_empty, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _row(name: str, line: int, value: object) -> Row:
    if isinstance(value, list):
        if value and all(isinstance(one, dict) and one and not {"role", "from"} & one.keys() for one in value):
            raise InvalidInput(
                f"{name}:{line}: a JSON array of {len(value)} rows stands on one line",
                expected="one row, or one list of turns, on each line",
                next_step="call the file .json, whose array of rows is read",
            )
        value = {"messages": value}
    if not isinstance(value, dict):
        raise InvalidInput(f"{name}:{line}: a row is {type(value).__name__}", expected="a JSON object")
    return Row(line, MappingProxyType(value))


def _delimited(delimiter: str) -> Callable[[str, bytes], Iterator[Row]]:
    def read(name: str, data: bytes) -> Iterator[Row]:
        reader = csv.reader(io.StringIO(decoded(name, data), newline=""), delimiter=delimiter, strict=True)
        try:
            yield from _cells(name, reader)
        except csv.Error as error:
            raise InvalidInput(
                f"{name}:{max(reader.line_num, 1)}: broken row ({error})",
                expected="RFC 4180 quoting",
                next_step="repair the row; fields above 131,072 characters need JSON Lines",
            ) from error

    return read


def _cells(name: str, reader: Iterator[list[str]]) -> Iterator[Row]:
    header = next(reader, [])
    if len(set(header)) != len(header):
        raise InvalidInput(
            f"{name}:1: a column name occurs twice: {', '.join(header)}", expected="distinct column names"
        )
    line = _line(reader) + 1
    for cells in reader:
        if cells:
            if len(cells) != len(header):
                raise InvalidInput(f"{name}:{line}: {len(cells)} cells", expected=f"{len(header)}, as in the header")
            yield Row(line, MappingProxyType(dict(zip(header, cells, strict=True))))
        line = _line(reader) + 1


def _line(reader: object) -> int:
    return int(getattr(reader, "line_num", 0))


def _parquet(name: str, data: bytes) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Arrow's own threads must hold nothing of Python's: one that ends after the interpreter aborts the process
        with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), pre_buffer=False) as file:
            table = file.read(use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidInput(f"{name} is not readable as Parquet: {error}", expected="a Parquet file") from error
    for start in range(0, table.num_rows, AT_ONCE):
        yield from _parquet_rows(name, table.slice(start, AT_ONCE), start + 1)


def _parquet_rows(name: str, part: Any, first: int) -> Iterator[Row]:
    """The rows of a part of a table, counted from ``first``; halved until a value that Python cannot hold is found."""
    import pyarrow

    try:
        rows = part.to_pylist()
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        half = part.num_rows // 2
        if half:
            yield from _parquet_rows(name, part.slice(0, half), first)
            yield from _parquet_rows(name, part.slice(half), first + half)
            return
        raise InvalidInput(
            f"{name}:{first}: a value cannot be read ({error})",
            expected="texts in UTF-8, and dates of the years 1-9999",
            next_step="repair the row, or leave columns out that are not needed",
        ) from error
    for number, fields in enumerate(rows, start=first):
        yield Row(number, MappingProxyType(fields))


_READERS: Mapping[str, Callable[[str, bytes], Iterator[Row]]] = MappingProxyType(
    {".jsonl": _jsonl, ".json": _json, ".csv": _delimited(","), ".tsv": _delimited("\t"), ".parquet": _parquet}
)
