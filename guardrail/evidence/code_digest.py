"""The digest of this package's own source: which code made a record, whatever version number it bore.

A version number names a release; a checkout, a patched installation or a plug-in that was dropped into the package
has none of its own. Not covered: dependencies (``versions`` in the record names them), data files of the package, and
code that is not below it. Nobody can tell from a record whether the digest is true; it tells whose claims to compare.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from guardrail.evidence.digest import file_sha256, manifest_digest
from guardrail.records import FileDigest

PACKAGE = Path(__file__).parents[1]


@cache
def code_digest(package: Path = PACKAGE) -> str:
    """SHA-256 of the manifest of every ``*.py`` below ``package``: relative paths, sizes and bytes.

    Read once for each process, so ask before the work begins: files may change while it runs. Links are followed, since
    installers may link the files of a wheel; the same sources have the same digest in a checkout and in a wheel.

    Raises:
        InvalidInput: a source file cannot be read.
    """
    files = (
        FileDigest(path=path.relative_to(package).as_posix(), sha256=file_sha256(path), size=path.stat().st_size)
        for path in package.rglob("*.py")
    )
    return manifest_digest(tuple(sorted(files, key=lambda entry: entry.path)))
