"""Where a server seals, for each kind of destination: the tree, and the boundaries that keep clients out of it.

Not covered: installing them (``gate/app/apps.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.gate.sealed.tree import DiskTree, SealedTree
from guardrail.gate.settings import SEALED, S3Bucket

if TYPE_CHECKING:
    from guardrail.gate.sealed.boundary_disk import Boundary
    from guardrail.gate.sealed.boundary_s3 import BucketBoundary


@dataclass(frozen=True)
class Sealing:
    """The tree, what is closed on the disk, and what is closed in object storage."""

    tree: SealedTree
    boundary: Boundary
    buckets: BucketBoundary | None = None


def sealing(place: Path | S3Bucket) -> Sealing:
    """Sealing for a destination.

    Raises:
        InvalidInput: nothing can be sealed there.
        ServiceUnavailable: the storage does not answer.
    """
    from guardrail.gate.sealed.boundary_disk import Boundary

    if isinstance(place, Path):
        disk = DiskTree(place / SEALED)
        return Sealing(disk, Boundary(disk.root))
    from guardrail.gate.sealed.boundary_s3 import BucketBoundary
    from guardrail.gate.sealed.tree_s3 import BucketTree, workplace

    require_sealing(place)
    tree = BucketTree(place, workplace(place))
    return Sealing(tree, Boundary(tree.root), BucketBoundary(place))


def require_sealing(place: Path | S3Bucket) -> None:
    """Of a bucket, that objects can be written, read and deleted; a disk says so when the tree is made.

    Raises:
        InvalidInput: nothing can be sealed there.
        ServiceUnavailable: the storage does not answer.
    """
    if isinstance(place, S3Bucket):
        from guardrail.gate.sealed.bucket_objects import Store

        Store(place).require_usable()
