"""The example notebook, .github/demo.ipynb: run from top to bottom without a kernel, and written with its outputs.

``python -m tests.notebook`` refreshes the outputs: `make docs`.
"""

import ast
import contextlib
import io
import json
from pathlib import Path

NOTEBOOK = Path(__file__).parent.parent / ".github" / "demo.ipynb"


def run(notebook):
    """Run all cells in one namespace; yields each cell of code with its outputs, as the format of notebooks has them."""
    names, count = {"__name__": "__main__"}, 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        printed, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
            value = _value("".join(cell["source"]), names)
        streams = {"stdout": printed.getvalue(), "stderr": told.getvalue()}
        outputs = [
            {"output_type": "stream", "name": name, "text": text.splitlines(keepends=True)}
            for name, text in streams.items()
            if text
        ]
        if value is not None:
            shown = {"text/plain": repr(value).splitlines(keepends=True)}
            if hasattr(value, "_repr_html_"):
                shown["text/html"] = value._repr_html_().splitlines(keepends=True)
            result = {"output_type": "execute_result", "execution_count": count, "data": shown, "metadata": {}}
            outputs.append(result)
        yield cell, count, outputs


def _value(source, names):
    """Run a cell; the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102 (it is our own notebook)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307


def refresh():
    """Write the outputs of today."""
    notebook = json.loads(NOTEBOOK.read_text())
    for cell, count, outputs in run(notebook):
        cell["execution_count"], cell["outputs"] = count, outputs
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    refresh()
