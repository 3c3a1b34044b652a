"""Count lines by kind: ``python .ci/count_lines.py [folder of a checkout]``."""

from __future__ import annotations

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

KINDS = ("code", "docstrings", "imports", "comments", "blank")


def kinds_of(path: Path) -> Counter[str]:
    """Lines of a file by kind; a line of code with a comment is code, ``__all__`` belongs to the imports."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    kinds = ["code" if line.strip() else "blank" for line in lines]
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
                kinds[token.start[0] - 1] = "comments"
    tree = ast.parse(source)
    for node in ast.walk(tree):
        kind = ""
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_all(node):
            kind = "imports"
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node, kind = first, "docstrings"
        if kind:
            begin, end = node.lineno - 1, node.end_lineno  # type: ignore[attr-defined]
            kinds[begin:end] = [kind] * (end - begin)
    return Counter(kinds)


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets
    )


def main(root: Path) -> None:
    """Print a table of the package's folders, the package, the tests and the examples."""
    package = root / "lightning_flip"
    folders = [package / "*.py", *(folder / "**/*.py" for folder in sorted(package.iterdir()) if folder.is_dir())]
    wanted = [*folders, package / "**/*.py", root / "tests/**/*.py", root / "examples/**/*.py"]
    print(f"{'':24}{'files':>7}{'lines':>8}" + "".join(f"{kind:>12}" for kind in KINDS))
    for pattern in wanted:
        name = pattern.relative_to(root).as_posix().replace("/**/*.py", "/")
        files = [path for path in sorted(root.glob(pattern.relative_to(root).as_posix())) if path.is_file()]
        if files:
            total = sum((kinds_of(path) for path in files), Counter[str]())
            print(f"{name:24}{len(files):7}{total.total():8}" + "".join(f"{total[kind]:12}" for kind in KINDS))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
