"""The JSON Schema of a config, for editors and other checkers, with what each key means."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel

from clrtool.config.components import Component
from clrtool.config.schema import RangeTestConfig

# Beside the configs; the comment by which an editor knows it.
SCHEMA_FILE = "clrtool.schema.json"
MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"


def json_schema() -> dict[str, Any]:
    """In Draft 7, which every YAML language server reads: rules of the tree, meanings of its docstrings."""
    whole = RangeTestConfig.model_json_schema(ref_template="#/definitions/{model}")
    sections = whole.pop("$defs")
    _explain(whole, RangeTestConfig)
    for kind in _kinds(BaseModel):
        if kind.__name__ in sections:
            _explain(sections[kind.__name__], kind)
            if issubclass(kind, Component):
                sections[kind.__name__] = _as_it_may_be_written(sections[kind.__name__], kind.default_name)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **whole, "definitions": sections}


def _kinds(above: type[BaseModel]) -> list[type[BaseModel]]:
    return [each for kind in above.__subclasses__() for each in (kind, *_kinds(kind))]


def _explain(section: dict[str, Any], kind: type[BaseModel]) -> None:
    """The first sentence of a docstring describes its section, the arguments in it the keys."""
    text = inspect.getdoc(kind) or ""
    section["description"] = text.partition("\n")[0]
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        meanings |= re.findall(r"^ +(\w+): (.+)$", inspect.cleandoc(base.__dict__.get("__doc__") or ""), re.MULTILINE)
    for key, rules in section["properties"].items():
        rules.pop("title", None)
        if key in meanings:
            rules["description"] = meanings[key]


def _as_it_may_be_written(section: dict[str, Any], default_name: str | None) -> dict[str, Any]:
    """A section with a default may be a name alone; any other needs a name or a factory."""
    if default_name is None:
        return section | {"anyOf": [{"required": ["name"]}, {"required": ["factory"]}]}
    return {"anyOf": [{"type": "string"}, section], "description": section["description"]}
