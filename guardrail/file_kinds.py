"""What a file or folder is that is no text in UTF-8: people give what their tools wrote, and then need its name.

Known by their first bytes: compressed files, archives, Parquet and Arrow, SQLite, old Excel, UTF-16 and UTF-32 (also
without a byte order mark, by their zeros). Known by its files: what ``datasets`` saves with ``save_to_disk``. Nothing
is converted here: what is hashed is what is read. Not covered: which one-byte encoding a text has (all of them fit).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guardrail.errors import InvalidInput

EXPECTED: Final = "text in UTF-8, with or without a byte order mark"
LOOKED_AT: Final = 4096
"""Bytes from the start in which zeros are counted."""
SUFFIXES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Kind:
    """A form that a file may have: its name, as after "is", and how to make text of it."""

    name: str
    next_step: str


PARQUET: Final = Kind(
    "a Parquet file",
    "name it FILE.parquet where training data is read; elsewhere export it as JSON Lines, for example with "
    'pandas.read_parquet("FILE").to_json("FILE.jsonl", orient="records", lines=True)',
)
ARROW: Final = Kind(
    "an Arrow file",
    'export it as JSON Lines, for example with datasets.Dataset.from_file("FILE").to_json("FILE.jsonl")',
)
SAVED: Final = 'export it as JSON Lines: datasets.load_from_disk("{path}"){split}.to_json("data.jsonl")'
_MAGIC: Final = (
    (b"\x1f\x8b", Kind("compressed with gzip", "unpack it: gzip -dc FILE > FILE.jsonl")),
    (b"\x28\xb5\x2f\xfd", Kind("compressed with Zstandard", "unpack it: zstd -dc FILE > FILE.jsonl")),
    (b"\xfd7zXZ\x00", Kind("compressed with xz", "unpack it: xz -dc FILE > FILE.jsonl")),
    (b"\x04\x22\x4d\x18", Kind("compressed with LZ4", "unpack it: lz4 -dc FILE > FILE.jsonl")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", "unpack it and give the file inside")),
    (
        b"PK\x03\x04",
        Kind("a ZIP archive or an Excel workbook", "unpack the file inside, or export the sheet as CSV in UTF-8"),
    ),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Excel workbook", "export the sheet as CSV in UTF-8")),
    (b"SQLite format 3\x00", Kind("a SQLite database", "export its table as CSV or JSON Lines")),
    (b"ARROW1\x00\x00", ARROW),
    (b"\xff\xff\xff\xff", ARROW),
    (b"\xff\xfe\x00\x00", Kind("encoded in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW")),
    (b"\x00\x00\xfe\xff", Kind("encoded in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW")),
    (b"\xff\xfe", Kind("encoded in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW")),
    (b"\xfe\xff", Kind("encoded in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW")),
)
_ENDIAN: Final = "encoded in UTF-16 without a byte order mark"


def kind_of(data: bytes) -> Kind | None:
    """What the bytes of a file are, where they are known to be no text in UTF-8."""
    if data.startswith(b"PAR1") and data.endswith(b"PAR1"):
        return PARQUET
    if data.startswith(b"BZh") and data[4:10] == b"1AY&SY":  # "BZh" alone may begin a text
        return Kind("compressed with bzip2", "unpack it: bzip2 -dc FILE > FILE.jsonl")
    if data[257:262] == b"ustar":
        return Kind("a tar archive", "unpack it and give the file inside")
    return next((kind for begins, kind in _MAGIC if data.startswith(begins)), None) or _unmarked_utf16(data[:LOOKED_AT])


def decoded(name: str, data: bytes) -> str:
    """The text of the file called ``name``.

    Raises:
        InvalidInput: it is not UTF-8; the message says what it is instead, or which line is not.
    """
    require_text(name, data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        binary = b"\0" in data[:LOOKED_AT]
        raise InvalidInput(
            f"{name}:{line}: byte 0x{data[error.start]:02x} is not UTF-8" + (", and it holds zeros" if binary else ""),
            expected=EXPECTED,
            next_step="see what made the file: it is no text"
            if binary
            else "convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8",
        ) from error


def require_text(name: str, data: bytes) -> None:
    """Refuse a file that is known to be something else, by its name.

    Raises:
        InvalidInput: naming what it is and how to make text of it.
    """
    kind = kind_of(data)
    if kind is not None:
        raise InvalidInput(f"{name} is {kind.name}", expected=EXPECTED, next_step=kind.next_step)


def require_no_folder(path: Path) -> None:
    """Refuse a folder where a file is read, saying what kind of folder it is.

    Raises:
        InvalidInput: ``path`` is a folder.
    """
    if path.is_dir():
        kind = _folder(path)
        raise InvalidInput(f"{path} is {kind.name}", expected="one file", next_step=kind.next_step)


def _folder(path: Path) -> Kind:
    if (path / "dataset_dict.json").is_file():
        name = "a folder of several splits that datasets saved (save_to_disk)"
        return Kind(name, SAVED.format(path=path, split='["train"]'))
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return Kind("a folder that datasets saved (save_to_disk)", SAVED.format(path=path, split=""))
    inside = sorted(one.name for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
    return Kind("a folder", "give one file in it: " + ", ".join(inside[:5]) if inside else "give a file")


def _unmarked_utf16(start: bytes) -> Kind | None:
    """Letters of ASCII in two bytes each: every second byte is zero, and none of the others."""
    high, low = start[0::2], start[1::2]
    for order, zeros, others in (("LE", low, high), ("BE", high, low)):
        if zeros.count(0) * 2 > len(zeros) and not others.count(0):
            return Kind(_ENDIAN, f"convert it: iconv -f UTF-16{order} -t UTF-8 FILE > NEW")
    return None
