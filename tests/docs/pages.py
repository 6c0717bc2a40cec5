"""The pages of docs/, and the Python in them."""

import ast
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"]
_ARROW = "  # -> "


def blocks(page):
    """Return (line, code) of every Python block of a page."""
    text = page.read_text()
    return [
        (text[: found.start()].count("\n") + 1, found[1])
        for found in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    ]


def run(code):
    """Run a block; return what each `expression  # -> value` gave, and what it should have.

    Such a line is a statement of its own, at the top level; an arrow elsewhere is an error.
    """
    lines, names, given = code.splitlines(), {}, []
    for node in ast.parse(code).body:
        source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        expected = lines[node.end_lineno - 1].partition(_ARROW)[2]
        if expected and isinstance(node, ast.Expr):
            value = eval(ast.get_source_segment(code, node.value), names)
            given.append((value, eval(expected, names)))
        else:
            exec(source, names)
    if len(given) != code.count(_ARROW):
        raise SyntaxError(f"an arrow that is not behind an expression:\n{code}")
    return given
