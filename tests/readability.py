"""Print how readable a package is by a few counts, and fail where a limit is passed.

Usage: python tests/readability.py hpo_lib

Tokens are those of the code, without comments, docstrings and line ends. Decision points of a
function count what the eye has to branch on: statements, conditional expressions, comprehensions
with their filters, and boolean operators.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_TOKENS_PER_LINE = 8.0
MAX_DECISION_POINTS = 10
MAX_SHARE_OF_BRANCHY_FUNCTIONS = 0.02
MIN_SHARE_WITH_ARGS = 0.6
MAX_MODULE_LINES = 450
MAX_FILES_PER_FOLDER = 14

_LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}
_BRANCHES = (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.comprehension)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Counts:
    """Counts over the modules of a package."""

    tokens: int = 0
    code_lines: int = 0
    functions: int = 0
    branchy: list[str] = field(default_factory=list)
    public: int = 0
    without_args: list[str] = field(default_factory=list)
    long_modules: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    private_imports: list[str] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Count one module."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.files[str(path.parent)] += 1
        if len(text.splitlines()) > MAX_MODULE_LINES:
            self.long_modules.append(str(path))

        tokens = list(_code_tokens(text, _docstring_lines(tree)))
        self.tokens += len(tokens)
        self.code_lines += len({line for token in tokens for line in _lines(token)})

        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and _imports_private_name(node):
                self.private_imports.append(f"{path}:{node.lineno}")
            if isinstance(node, _Function):
                self._add_function(path, node)

    def _add_function(self, path: Path, node: _Function) -> None:
        name = f"{path}:{node.lineno} {node.name}"
        self.functions += 1
        if decision_points(node) > MAX_DECISION_POINTS:
            self.branchy.append(name)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        described = [one.arg for one in arguments if one.arg not in ("self", "cls")]
        if not node.name.startswith("_") and len(described) >= 2:
            self.public += 1
            if "Args:" not in (ast.get_docstring(node) or ""):
                self.without_args.append(name)

    @property
    def density(self) -> float:
        """Tokens per line of code."""
        return self.tokens / self.code_lines

    def problems(self) -> Iterator[str]:
        """Say which limits are passed, and by what."""
        if self.density > MAX_TOKENS_PER_LINE:
            yield f"{self.density:.2f} tokens per code line, at most {MAX_TOKENS_PER_LINE}"
        if len(self.branchy) > MAX_SHARE_OF_BRANCHY_FUNCTIONS * self.functions:
            listed = "\n  ".join(self.branchy)
            yield f"{len(self.branchy)} functions have many decision points:\n  {listed}"
        if len(self.without_args) > (1 - MIN_SHARE_WITH_ARGS) * self.public:
            listed = "\n  ".join(self.without_args)
            yield f"{len(self.without_args)} public functions lack Args:\n  {listed}"
        for module in self.long_modules:
            yield f"{module} has more than {MAX_MODULE_LINES} lines"
        for folder, n in self.files.items():
            if n > MAX_FILES_PER_FOLDER:
                yield f"{folder} has {n} modules, at most {MAX_FILES_PER_FOLDER}"
        for place in self.private_imports:
            yield f"{place} imports a private name of a dependency"


def decision_points(function: ast.AST) -> int:
    """Count what a reader of the function has to branch on."""
    points = 0
    for node in ast.walk(function):
        points += isinstance(node, _BRANCHES)
        if isinstance(node, ast.BoolOp):
            points += len(node.values) - 1
        if isinstance(node, ast.comprehension):
            points += len(node.ifs)
    return points


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | _Function)
        if documented and ast.get_docstring(node):
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def _code_tokens(text: str, skipped_lines: set[int]) -> Iterator[tokenize.TokenInfo]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT and token.start[0] not in skipped_lines:
            yield token


def _lines(token: tokenize.TokenInfo) -> range:
    return range(token.start[0], token.end[0] + 1)


def _imports_private_name(node: ast.ImportFrom) -> bool:
    module = node.module or ""
    if module.split(".")[0] in ("", "hpo_lib", "__future__"):
        return False
    names = [*module.split("."), *(alias.name for alias in node.names)]
    return any(name.startswith("_") and not name.startswith("__") for name in names)


def main(folder: str) -> int:
    """Print the counts of the package in a folder; 1 where a limit is passed."""
    counts = Counts()
    for path in sorted(Path(folder).rglob("*.py")):
        counts.add(path)

    with_args = 1 - len(counts.without_args) / max(counts.public, 1)
    print(
        f"{counts.tokens:,} code tokens, {counts.density:.2f} per line; "
        f"{len(counts.branchy)} of {counts.functions} functions with more than "
        f"{MAX_DECISION_POINTS} decision points; Args: in {with_args:.0%} of {counts.public}"
    )
    problems = list(counts.problems())
    for problem in problems:
        print(problem)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
