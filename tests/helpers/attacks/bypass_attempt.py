"""One way around the gate that was tried, and where it is one; ``bypass_attempts.py`` lists them."""

from __future__ import annotations

from dataclasses import dataclass

from bypass_moves import Move
from matrix import Cell, is_new, visited, whole


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Args:
        feature: it uses what must be off, so an answer is success enough.
        workspaces: stock MLflow needs them enabled.
        asgi_only: stock MLflow has it under uvicorn only.
        exact_only: it needs a database that tells names apart that a folding one does not.
        folding: it needs a database that ignores more than folding does.
        only: it needs artifacts on the disk (``local``) or in a bucket (``s3``).
        anywhere: what it tries is judged before anything of the cell counts, so CI tries it in whole cells alone.
        depends: the parts of a cell that may make it another attack; stock MLflow is shown once for each value.
    """

    name: str
    attack: Move
    feature: bool = False
    workspaces: bool = False
    asgi_only: bool = False
    exact_only: bool = False
    folding: bool = False
    only: str = ""
    anywhere: bool = False
    depends: tuple[str, ...] = ()

    def applies(self, cell: Cell) -> bool:
        """Whether there is such a thing in this cell."""
        fits = self.only in ("", cell.artifacts) and (cell.database == "mysql" or not self.folding)
        return fits and (not self.anywhere or cell in whole())

    def real(self, cell: Cell) -> bool:
        """Whether stock MLflow has it in this cell."""
        asgi, exact = cell.server == "uvicorn", cell.database != "mysql"
        return self.applies(cell) and (asgi or not self.asgi_only) and (exact or not self.exact_only)

    def shown(self, cell: Cell) -> bool:
        """Whether this run shows on stock MLflow of this cell that it is real."""
        places = [one for one in visited() if self.real(one)]
        return cell in places and (cell in whole() or is_new(cell, self.depends, places))
