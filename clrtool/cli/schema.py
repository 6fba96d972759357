"""``clrtool schema``: the JSON Schema of a config."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of a config, for editors and other checkers.

    Example: clrtool schema > clrtool.schema.json
    """
    typer.echo(schema_text(), nl=False)


def schema_text() -> str:
    """The schema as it is printed, and as it lies beside a config."""
    from clrtool.config.json_schema import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"
