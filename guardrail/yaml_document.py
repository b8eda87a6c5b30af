"""A YAML file as plain data that remembers where everything stood, for errors that name file:line:column.

Only the part of YAML is read that means the same to every reader: plain decimal numbers, ``true``/``false``, text,
lists and mappings with text keys. Anchors, aliases, merge keys, tags, duplicate keys, several documents and files
above 1 MB are refused: a policy or a trust file that two people can read differently protects nobody.

Does not cover what the data means (``policy/schema.py``, ``evidence/trust/trust_yaml.py``).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from guardrail.errors import InvalidInput
from guardrail.file_kinds import require_text

Plain: TypeAlias = "bool | int | float | str | tuple[Plain, ...] | dict[str, Plain] | None"
Path: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 1_000_000
TAG = "tag:yaml.org,2002:"
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
DECIMAL = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Document:
    """Plain data and the 1-based ``(line, column)`` of every key and value, by path from the root."""

    source: str
    data: dict[str, Plain]
    keys: dict[Path, tuple[int, int]] = field(repr=False)
    values: dict[Path, tuple[int, int]] = field(repr=False)

    def where(self, path: Path, *, key: bool = False) -> str:
        """``file:line:column`` of the value (or key) at ``path``, or of its nearest known parent."""
        if key and path in self.keys:
            return "{}:{}:{}".format(self.source, *self.keys[path])
        while path and path not in self.values:
            path = path[:-1]
        return "{}:{}:{}".format(self.source, *self.values.get(path, (1, 1)))


def read_document(data: bytes, source: str, what: str = "a policy") -> Document:
    """Parse one YAML mapping; ``what`` is what messages say that it should have been.

    Raises:
        InvalidInput: anything else; the message begins with ``source:line:column``.
    """
    node = _composed(_text(data, source, what), source, what)
    reader = _Reader(source)
    try:
        plain = reader.read(node, ())
    except RecursionError as error:
        raise InvalidInput(f"{source}:1:1: nested too deeply", expected=what) from error
    if not isinstance(plain, dict):
        raise InvalidInput(f"{_at(source, node)}: not a mapping", expected="keys and values, such as 'version: 1'")
    return Document(source, plain, reader.keys, reader.values)


def _text(data: bytes, source: str, what: str) -> str:
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{source}:1:1: {len(data)} bytes", expected=f"{what} of at most {MAX_BYTES} bytes")
    require_text(f"{source}:1:1: the file", data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise InvalidInput(
            f"{source}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8", next_step="save it as UTF-8"
        ) from error


def _composed(text: str, source: str, what: str) -> Node:
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise _syntax(error, source) from error
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        raise InvalidInput(f"{source}:{line}:{column}: a character that YAML does not allow") from error
    except RecursionError as error:
        raise InvalidInput(f"{source}:1:1: nested too deeply", expected=what) from error
    except Exception as error:  # the parser has bugs on garbage; whatever it raises, the file is not what we look for
        raise InvalidInput(f"{source}:1:1: cannot be read as YAML: {type(error).__name__}") from error
    if node is None:
        raise InvalidInput(f"{source}:1:1: the file is empty", expected=f"{what}: kind, version, …")
    return node


def _syntax(error: MarkedYAMLError, source: str) -> InvalidInput:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = str(error.problem or error.context or "not YAML").splitlines()[0]
    advice = "use spaces, YAML allows no tab there" if "\\t" in problem or "\t" in problem else ""
    if "another document" in problem:
        problem, advice = "a second document", "keep one document a file, without a line '---' in it"
    return InvalidInput(f"{source}:{line}:{column}: {problem}", next_step=advice)


def _at(source: str, node: Node) -> str:
    return f"{source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


class _Reader:
    """Turns nodes into plain data, remembering marks."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.keys: dict[Path, tuple[int, int]] = {}
        self.values: dict[Path, tuple[int, int]] = {}

    def read(self, node: Node, path: Path) -> Plain:
        if getattr(node, "anchor", None):
            raise InvalidInput(f"{_at(self.source, node)}: an anchor (&{node.anchor})", next_step="write the value out")
        self.values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, MappingNode) and str(node.tag) == TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and str(node.tag) == TAG + "seq":
            return tuple(self.read(item, (*path, index)) for index, item in enumerate(node.value))
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        raise InvalidInput(f"{_at(self.source, node)}: the tag {node.tag} is not allowed", next_step="leave it out")

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in found:
                line = self.keys[(*path, key)][0]
                raise InvalidInput(
                    f"{_at(self.source, key_node)}: duplicate key {key!r}, first in line {line}",
                    next_step="keep one of the two",
                )
            self.keys[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            found[key] = self.read(value_node, (*path, key))
        return found

    def _key(self, node: Node) -> str:
        if getattr(node, "anchor", None) or not isinstance(node, ScalarNode) or str(node.tag) != TAG + "str":
            shown = repr(node.value) if isinstance(node, ScalarNode) else "a list or mapping"
            raise InvalidInput(f"{_at(self.source, node)}: {shown} as a key", expected="a plain word as key")
        return str(node.value)

    def _scalar(self, node: ScalarNode) -> Plain:
        kind, text = str(node.tag).removeprefix(TAG), str(node.value)
        if kind in ("str", "timestamp"):
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int" and INTEGER.fullmatch(text):
            return int(text)
        if kind == "float" and DECIMAL.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        raise InvalidInput(
            f"{_at(self.source, node)}: {text[:40]!r} could be read in more than one way",
            expected="true, false, a plain decimal number, or text in quotes",
        )
