"""Plug-ins are files: the file's name is the plug-in's name.

``names`` lists a family without importing any of its members, so that help texts and error messages cost nothing;
``load`` imports exactly one. A file whose name starts with an underscore is a helper, not a plug-in.

This does not discover third-party packages (entry points): what the gate runs is what was reviewed with it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from types import ModuleType

from guardrail.errors import InvalidInput


def names(package: str) -> tuple[str, ...]:
    """The plug-ins of ``package`` (a dotted name such as ``guardrail.train.methods``), sorted."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise InvalidInput(f"{package} is not a package of plug-ins")
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return tuple(sorted(module.name for module in found if not module.name.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """Import the plug-in ``name`` of ``package``.

    Raises:
        InvalidInput: there is no such plug-in; the message lists those there are.
    """
    known = names(package)
    if name not in known:
        raise InvalidInput(
            f"unknown {package.rpartition('.')[2].rstrip('s')} {name!r}",
            expected="one of " + ", ".join(known),
            next_step=suggestion(name, known),
        )
    return importlib.import_module(f"{package}.{name}")


def suggestion(name: str, known: tuple[str, ...]) -> str:
    """``did you mean 'der'?`` where something known is close, else an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""
