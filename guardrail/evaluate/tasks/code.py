"""Python code: the response must be the same program as the answer, compared as syntax trees and never run.

Layout, comments, docstrings, annotations in functions and the names of their parameters (not of methods') do not
count; everything else does. So a
program that does the same in another way (``x + 1`` for ``1 + x``, a loop for a sum) is **wrong** here: this scores
tasks whose answers have one form, and is a lower bound on any other. For functional correctness (HumanEval, MBPP) run
the tests in a sandbox elsewhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from guardrail.evaluate.tasks._build import load_named
from guardrail.samples import Task

LONGEST = 20_000
"""Characters; anything longer is wrong unseen, because parsing hostile text of any size is asking for trouble."""

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def load(path: Path, *, name: str, split: str, columns: Mapping[str, str] | None = None) -> Task:
    """Read a file of prompts with programs as answers.

    Raises:
        InvalidInput: a column is missing or a row is broken.
    """
    return load_named(path, name=name, score="code", split=split, columns=columns)


def score(response: str, answer: str) -> bool:
    """Whether ``response`` (its first fenced block, or all of it) is the program ``answer``."""
    fenced = _FENCE.search(response)
    given, right = _normal(fenced.group(1) if fenced else response), _normal(answer)
    return right is not None and given == right


def _normal(source: str) -> str | None:
    """The normalised tree as text; None where the source is no program, or an empty one."""
    if len(source) > LONGEST:
        return None
    try:
        tree = ast.parse(source.strip())
        plain = _Normalise(_fixed(tree)).visit(tree)
        return ast.dump(plain) if plain.body else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _fixed(tree: ast.AST) -> frozenset[str]:
    """Names that mean something beyond their function (keywords, imports, classes ...): renaming them is no detail."""
    return frozenset(name for node in ast.walk(tree) for name in _names(node))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        yield from (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
        yield from (inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg))
    if isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif not isinstance(node, ast.Name | ast.arg | ast.Attribute | ast.Constant):
        for _, value in ast.iter_fields(node):
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


Definition = ast.FunctionDef | ast.AsyncFunctionDef


class _Normalise(ast.NodeTransformer):
    """Drops docstrings and, in functions, annotations; calls parameters by depth and position."""

    def __init__(self, fixed: frozenset[str]) -> None:
        self.fixed = fixed
        self.names: list[dict[str, str]] = []

    def visit_Module(self, node: ast.Module) -> ast.AST:
        _drop_docstring(node)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        _drop_docstring(node)
        outer, self.names = self.names, []  # annotations of a class are part of what it is
        visited = self.generic_visit(node)
        self.names = outer
        return visited

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._definition(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._definition(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._signature(node.args)
        node.body = self.visit(node.body)
        self.names.pop()
        return node

    def _definition(self, node: Definition) -> Definition:
        _drop_docstring(node)
        node.returns = None
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        self._signature(node.args)
        node.body = [self.visit(one) for one in node.body]
        self.names.pop()
        return node

    def _signature(self, args: ast.arguments) -> None:
        """Normalise the parameters and open their scope; defaults belong to the scope outside."""
        args.defaults = [self.visit(one) for one in args.defaults]
        args.kw_defaults = [one and self.visit(one) for one in args.kw_defaults]
        scope: dict[str, str] = {}
        for index, argument in enumerate(_arguments(args)):
            argument.annotation = None
            if argument.arg not in self.fixed:
                scope[argument.arg] = f"#{len(self.names)}.{index}"
            argument.arg = scope.get(argument.arg, argument.arg)
        self.names.append(scope)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None or not self.names:
            return self.generic_visit(node)
        return self.generic_visit(ast.Assign(targets=[node.target], value=node.value))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        for scope in reversed(self.names):
            if node.id in scope:
                return ast.Name(id=scope[node.id], ctx=node.ctx)
        return node


def _arguments(args: ast.arguments) -> list[ast.arg]:
    stars = [one for one in (args.vararg, args.kwarg) if one is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *stars]


def _drop_docstring(node: ast.Module | ast.ClassDef | Definition) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]
