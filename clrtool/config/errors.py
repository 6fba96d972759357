"""What pydantic finds wrong with a config, as sentences at their places: field, value, rule, fix."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clrtool.config.components import UNION
from clrtool.config.strict_yaml import Document, Fault, KeyPath, read_yaml
from clrtool.words import closest, nearest, shortened, shown


def explain(invalid: ValidationError, document: Document, tree: type[BaseModel]) -> list[Fault]:
    """One fault for each key that is wrong, but for those that the document already calls faulty."""
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for error in invalid.errors(include_url=False):
        grouped.setdefault(_known_part(error, document), []).append(error)
    return [_fault(path, errors, document, tree) for path, errors in grouped.items() if path not in document.faulty]


def reading_order(fault: Fault) -> tuple[bool, list[int | str]]:
    """Faults of the file by line and column, then those of the command line."""
    parts = fault[0].rsplit(":", 2)
    on_line = len(parts) == 3 and parts[1].isdigit()
    return not on_line, [int(part) for part in parts[1:]] if on_line else [fault[0]]


def _known_part(error: ErrorDetails, document: Document) -> KeyPath:
    """The key path of an error without the names that pydantic adds for the members of a union."""
    loc = tuple(part for part in error["loc"] if part not in UNION)
    if error["type"] == "missing":
        return loc
    return next(loc[:end] for end in range(len(loc), -1, -1) if loc[:end] in document.places or end == 0)


def _fault(path: KeyPath, errors: list[ErrorDetails], document: Document, tree: type[BaseModel]) -> Fault:
    name, error = dotted(path), errors[0]
    place = next(document.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in document.places)
    if error["type"] == "missing":
        return place[0], f"{name} is missing"
    if error["type"] == "extra_forbidden":
        where = f" in {dotted(path[:-1])}" if path[:-1] else ""
        return place[0], f"unknown key {shown(path[-1])}{where}; {nearest(str(path[-1]), _keys(tree, path[:-1]))}"
    if error["type"] == "section":
        return place[0], f"{name} {error['msg']}"
    rules = " or ".join(dict.fromkeys(rule(each) for each in errors))
    return place[1], f"{name} = {shown(error['input'])} {rules}{_hint(error['input'], errors)}"


def dotted(path: KeyPath) -> str:
    """A key path as a message names it."""
    return shortened(".".join(map(str, path)))


def rule(error: ErrorDetails) -> str:
    """The rule that an error names, as the end of the sentence that begins with the field and its value."""
    context = error.get("ctx", {})
    sentences = {
        "greater_than": "must be above {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be below {lt}",
        "less_than_equal": "must be at most {le}",
        "finite_number": "must be finite",
        "float_type": "must be a number",
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "string_type": "must be a text",
        "bool_type": "must be true or false",
        "none_required": "must be null",
        "is_instance_of": "must be a list",
        "list_type": "must be a list",
        "string_too_short": "must not be empty",
        "string_too_long": "must be at most {max_length} characters",
        "too_short": "must hold at least {min_length} of them",
        "too_long": "must hold at most {max_length} of them",
        "dict_type": "must be a mapping of keys and values",
        "model_type": "must be a mapping of keys and values",
        "literal_error": "must be {expected}",
        "string_pattern_mismatch": "must look like 'pkg.module:callable'",
    }
    return sentences[error["type"]].format(**context) if error["type"] in sentences else error["msg"]


def _hint(value: Any, errors: list[ErrorDetails]) -> str:
    kinds = {error["type"] for error in errors}
    if isinstance(value, str) and kinds & {"float_type", "int_type"}:
        number = read_yaml(value, "value") if len(value) < 40 and "\n" not in value else None
        if number is not None and isinstance(number.value, int | float):
            return f"; remove the quotes: {value}"
    if isinstance(value, str) and "literal_error" in kinds:
        expected = " ".join(str(error.get("ctx", {}).get("expected", "")) for error in errors)
        found = closest(value, expected.split("'")[1::2])
        return f"; did you mean {found!r}?" if found else ""
    return ""


def _keys(tree: type[BaseModel], path: KeyPath) -> list[str]:
    """The valid keys of the section at ``path``."""
    for place, part in enumerate(path):
        if isinstance(part, int):
            continue  # of a list, whose type of item was looked up with its name
        sections = _sections(tree.model_fields[part].annotation)
        tree = sections[-1] if any(isinstance(each, int) for each in path[place + 1 : place + 2]) else sections[0]
    return list(tree.model_fields)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold, those in a list last."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
