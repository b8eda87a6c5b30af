"""Ways around the gate by the spelling of a name: what a database ignores, and what a reader cannot tell apart.

The spellings that a database ignores need one that does (MariaDB under a collation of the Unicode Collation Algorithm);
elsewhere they are other names, of models that nobody guards. ``bypass_attempts.py`` lists these with the others.
"""

from __future__ import annotations

from functools import partial

import bypass_moves as moves
from bypass import Target
from bypass_attempt import Attempt
from bypass_moves import A, Move

SMALL_D_ABOVE = "\u0369"
"""COMBINING LATIN SMALL LETTER D, to such a collation a ``d``."""
ANUSVARA, BACKSLASH_AROUND, KASRA = "\u0982", "\u20e0", "\ufe7b"
"""Characters that count for nothing there; the third is a letter to MLflow, which takes letters in aliases."""
HYPHEN, MINUS, CYRILLIC_A, SCRIPT_G, LISU_D = "\u2010", "\u2212", "\u0430", "\u0261", "\ua4d3"

ignored = partial(Attempt, folding=True)


def spelt(name: str) -> str:
    """The name with its first d above the letter before it."""
    return name.replace("d", SMALL_D_ABOVE, 1)


def put_in(character: str, name: str) -> str:
    """The name with a character that counts for nothing."""
    return f"{name[:4]}{character}{name[4:]}"


def api(method: str, route: str, **values: object) -> Move:
    return lambda t: t.api(method, route, **{"name": spelt(t.name), **values})


def ajax(method: str, route: str, **values: object) -> Move:
    return lambda t: t.ajax(method, route, **{"name": put_in(ANUSVARA, t.name), **values})


def client(method: str, *values: object) -> Move:
    return lambda t: getattr(t.client, method)(put_in(BACKSLASH_AROUND, t.name), *values)


def version(t: Target) -> None:
    t.api("POST", "model-versions/create", **{**moves.version(t), "name": spelt(t.name)})


def made_a_prompt(t: Target) -> None:
    tag = {"key": "mlflow.prompt.is_prompt", "value": "true"}
    t.api("POST", "registered-models/create", name=put_in(KASRA, t.unborn), tags=[tag])


def renamed(to: str) -> Move:
    """Rename the attacker's own model onto the unborn name, by another spelling."""
    return lambda t: t.client.rename_registered_model(t.innocent, put_in(to, t.unborn))


def twin(letter: str, character: str) -> Move:
    """A model that looks like the guarded one, with the alias and bytes of the attacker's choice."""
    return lambda t: moves.other_model_with_alias(t, t.name.replace(letter, character, 1))


def renamed_twin(letter: str, character: str) -> Move:
    return lambda t: t.client.rename_registered_model(t.innocent, t.unborn.replace(letter, character, 1))


NAMES = [
    ignored("alias moved back through an odd spelling", api("POST", "registered-models/alias", alias=A, version="1")),
    ignored(
        "alias moved back through an odd spelling, ajax-api",
        ajax("POST", "registered-models/alias", alias=A, version="1"),
    ),
    ignored("alias moved back through an odd spelling, client", client("set_registered_model_alias", A, "1")),
    ignored(
        "alias with a character that the database ignores",
        lambda t: t.client.set_registered_model_alias(t.name, put_in(KASRA, A), "1"),
    ),
    ignored("alias deleted through an odd spelling", api("DELETE", "registered-models/alias", alias=A)),
    ignored("version through an odd spelling", version),
    ignored("tag through an odd spelling", api("POST", "registered-models/set-tag", key="a", value="b")),
    ignored(
        "verdict tag through an odd spelling",
        api("POST", "model-versions/set-tag", version="1", key="guardrail.verdict", value="FAILED"),
    ),
    ignored(
        "verdict tag deleted through an odd spelling", client("delete_model_version_tag", "1", "guardrail.verdict")
    ),
    ignored("description through an odd spelling", api("PATCH", "registered-models/update", description="PASSED")),
    ignored(
        "description of a version through an odd spelling",
        ajax("PATCH", "model-versions/update", version="1", description="PASSED"),
    ),
    ignored("stage through an odd spelling", client("transition_model_version_stage", "1", "Production")),
    ignored(
        "renamed away through an odd spelling",
        lambda t: t.client.rename_registered_model(spelt(t.name), f"away-{t.scratch.name}"),
    ),
    ignored("renamed onto an odd spelling", renamed(BACKSLASH_AROUND)),
    ignored("guarded name made a prompt through an odd spelling", made_a_prompt),
    ignored("version deleted through an odd spelling", client("delete_model_version", "1")),
    ignored("model deleted through an odd spelling", ajax("DELETE", "registered-models/delete")),
    Attempt("look-alike with one Cyrillic letter", twin("a", CYRILLIC_A)),
    Attempt("look-alike with another hyphen", twin("-", HYPHEN)),
    Attempt("look-alike with a minus sign", twin("-", MINUS)),
    Attempt("look-alike with a script g", twin("g", SCRIPT_G)),
    Attempt("look-alike with a Lisu letter", twin("d", LISU_D)),
    Attempt("renamed to a look-alike", renamed_twin("o", "\u043e")),
    Attempt("renamed to a look-alike with a Greek letter", renamed_twin("o", "\u03bf")),
    Attempt(
        "alias that looks like the protected one",
        lambda t: t.client.set_registered_model_alias(t.name, "pr0duction", "1"),
    ),
]
