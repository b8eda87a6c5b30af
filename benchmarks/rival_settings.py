"""The rivals' hyperparameters on the testbed, chosen on the validation split, so that they are compared at their best.

    python benchmarks/rival_settings.py [--quick] [--json FILE] [--jobs N] [--fresh] [--publish] [--methods NAME ...]

Two tasks, one seed, a tenth of the rows poisoned. A setting is worth what it keeps: utility minus attack success rate,
a mean over the tasks. Exits 1 where the setting that ``methods.py`` compares a method at (``CHOSEN``, else its
defaults) is worth over two points less than its best here. Defaults are the sources' values, where they name some.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping

from cells import UNALIGNED, Cell, fill, options, pool, ratio, shown

from guardrail.train.methods import create

TASKS = ("sentiment", "arithmetic")
Setting = tuple[tuple[str, float | str], ...]


def _grid(**values: tuple[float | str, ...]) -> tuple[Setting, ...]:
    """Every combination."""
    settings: list[Setting] = [()]
    for name, options_ in values.items():
        settings = [(*setting, (name, value)) for setting in settings for value in options_]
    return tuple(settings)


GRIDS: Mapping[str, tuple[Setting, ...]] = {
    "lwf": _grid(**{"lambda": (1e-3, 1e-2, 1e-1, 1.0)}),
    "ewc": _grid(**{"lambda": (0.1, 1.0, 4.0, 10.0)}),
    "lisa": (
        *_grid(rho=(0.0, 0.1, 1.0), user_steps=(9.0,), safety_steps=(1.0,)),
        *_grid(rho=(0.0,), user_steps=(1.0,), safety_steps=(1.0,)),  # no proximity to where a step started
        *_grid(rho=(0.01, 0.1, 1.0), user_steps=(5.0,), safety_steps=(5.0,)),
    ),
    "safe_lora": (*_grid(threshold=(0.2, 0.5)), *_grid(threshold=(0.2, 0.35, 0.5), scale=("norm",))),
    "safe_instruct": _grid(share=(0.1, 0.3, 1.0)),
    "constrained": (
        *_grid(first=(0.5,), early=(2.0,), rest=(0.1,)),
        *_grid(first=(5.0,), early=(20.0,), rest=(1.0,)),
        *_grid(first=(0.05,), early=(0.2,), rest=(0.01,)),
    ),
}
CHOSEN: Mapping[str, Setting] = {
    "lisa": (("rho", 0.0), ("user_steps", 1.0), ("safety_steps", 1.0)),
    "safe_lora": (("threshold", 0.2),),
    "safe_instruct": (("share", 1.0),),
    "constrained": (("first", 0.05), ("early", 0.2), ("rest", 0.01)),
}


def main() -> int:
    """Fill, print, compare."""
    parser = options(__doc__, "one task")
    parser.add_argument("--methods", nargs="+", default=list(GRIDS), choices=list(GRIDS), help="only these")
    arguments = parser.parse_args()
    tasks = TASKS[:1] if arguments.quick else TASKS
    cells = {
        (method, setting): [Cell(method, task, 0.1, 0, hyperparameters=setting, look="validation") for task in tasks]
        for method in arguments.methods
        for setting in GRIDS[method]
    }
    known = fill([cell for row in cells.values() for cell in row], arguments)
    print("| method | setting | ASR | over-refusal | " + " | ".join(f"utility {t}" for t in tasks) + " | worth |")
    print("|---|---|---|---|" + "---|" * len(tasks) + "---|")
    worth: dict[tuple[str, Setting], float] = {}
    for (method, setting), row in cells.items():
        counts = [pool((known[cell] for cell in row), name) for name in ("asr_validation", "over_refusal")]
        utilities = [known[cell][f"utility_{cell.task}"] for cell in row]
        worth[method, setting] = statistics.mean(map(ratio, utilities)) - ratio(counts[0])
        told = ", ".join(f"{name}={value}" for name, value in setting)
        print(
            f"| {method} | {told} | "
            + " | ".join(map(shown, [*counts, *utilities]))
            + f" | {100 * worth[method, setting]:.1f} |"
        )
    met = not [method for method in arguments.methods if not _held(method, worth)]  # every verdict is printed
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"method": method, "setting": dict(setting), "worth": value} for (method, setting), value in worth.items()
        ]
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if met else 1


def _held(method: str, worth: Mapping[tuple[str, Setting], float]) -> bool:
    """Whether the chosen setting is (nearly) the best; prints it."""
    mine = {setting: value for (name, setting), value in worth.items() if name == method}
    unaligned = {"unaligned": str(UNALIGNED)} if method == "safe_lora" else {}
    compared = {**create(method, unaligned).hyperparameters, **dict(CHOSEN.get(method, ()))}
    chosen = [value for setting, value in mine.items() if all(compared[name] == given for name, given in setting)]
    held = bool(chosen) and chosen[0] >= max(mine.values()) - 0.02
    best = max(mine, key=lambda setting: mine[setting])
    told = ", ".join(f"{name}={value}" for name, value in best)
    print(
        f"{'' if held else '**NO** '}{method}: best {told} ({100 * mine[best]:.1f}), compared at "
        + (f"{100 * chosen[0]:.1f}" if chosen else "not in the grid")
    )
    return held


if __name__ == "__main__":
    sys.exit(main())
