"""The config: YAML -> one frozen, validated tree, with every fault reported at its file, line and column.

The tree below is the only place where a key, its type, its rule and its default are written; the JSON Schema, the
error messages and the config saved with a run all come from it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML

from clrtool.core.plan import MAX_EPOCHS
from clrtool.core.schedules import POLICIES
from clrtool.errors import ConfigError, nearest
from clrtool.strict_yaml import Document, KeyPath, read_yaml

Auto = Literal["auto"]
LearningRate = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS, allow_inf_nan=False)]
# Unions are tried left to right, so that the message of the more general type comes first.
AutoLearningRate = Annotated[LearningRate | Auto, Field(union_mode="left_to_right")]
AutoEpochs = Annotated[Epochs | Auto, Field(union_mode="left_to_right")]

# In the source tree configs/ stands beside the package; in a wheel it is inside.
_CONFIG_FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")


class _Tree(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Component(_Tree):
    """Something to build: a built-in by ``name``, or ``factory: "pkg.module:callable"``; ``args`` by keyword."""

    default_name: ClassVar[str | None] = None

    name: str | None = None
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    args: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and cls.default_name and not {"name", "factory"} & set(values):
            return {"name": cls.default_name} | values
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.factory is None):
            raise PydanticCustomError("rule", "needs exactly one of 'name' and 'factory'")
        return self


class DataConfig(Component):
    """The training and held-out sets, and the samples per optimizer step."""

    batch_size: Annotated[int, Field(ge=1, le=10**7)] = 128


class OptimizerConfig(Component):
    """Any ``torch.optim`` class by name; its learning rate is what the sweep sets."""

    default_name = "SGD"

    @model_validator(mode="after")
    def _no_lr(self) -> Self:
        if "lr" in self.args:
            raise PydanticCustomError("rule", "is what the sweep sets; remove it", {"field": ("args", "lr")})
        return self


class LossConfig(Component):
    """What is minimised."""

    default_name = "cross_entropy"


class SweepConfig(_Tree):
    """The LR range test."""

    start_lr: AutoLearningRate = "auto"
    end_lr: AutoLearningRate = "auto"
    spacing: Literal["auto", "linear", "exponential"] = "auto"
    epochs: Epochs = 4
    evaluations: Annotated[int, Field(ge=2, le=100_000)] = 60
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.start_lr != "auto" and self.end_lr != "auto" and self.end_lr <= self.start_lr:
            raise PydanticCustomError(
                "rule", "must exceed sweep.start_lr = {start}", {"start": self.start_lr, "field": ("end_lr",)}
            )
        return self


class PlanConfig(_Tree):
    """The schedule planned from the bounds."""

    policy: Literal["triangular", "triangular2", "exp_range"] = "triangular2"
    epochs: Epochs = 30
    stepsize_epochs: AutoEpochs = "auto"

    @model_validator(mode="after")
    def _one_cycle_fits(self) -> Self:
        if self.stepsize_epochs != "auto" and 2 * self.stepsize_epochs > self.epochs:
            raise PydanticCustomError(
                "rule",
                "must be at most half of plan.epochs = {epochs}, so that one cycle fits",
                {"epochs": self.epochs, "field": ("stepsize_epochs",)},
            )
        return self


class RangeTestConfig(_Tree):
    """The whole config of one range test."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: Component
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig(name="SGD", args={"momentum": 0.9})
    loss: LossConfig = LossConfig(name="cross_entropy")
    metric: Literal["accuracy"] = "accuracy"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    sweep: SweepConfig = SweepConfig()
    plan: PlanConfig = PlanConfig()

    def sha256(self) -> str:
        """Hash of the resolved config: equal for equal values, whatever the file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved config, every default written out, loadable again."""
        stream = io.StringIO()
        yaml = YAML()
        yaml.width = 120
        yaml.dump(self.model_dump(mode="json", exclude_none=True), stream)
        return stream.getvalue()


assert set(POLICIES) == set(PlanConfig.model_fields["policy"].annotation.__args__)  # type: ignore[union-attr]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config, for editors and other checkers."""
    return RangeTestConfig.model_json_schema()


def shipped_configs() -> dict[str, Path]:
    """The configs that come with clrtool, by name."""
    folder = next((folder for folder in _CONFIG_FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(source: str) -> Path:
    """A config by its path, or by the name of a shipped one. Raises ConfigError if there is neither."""
    if (path := Path(source)).is_file():
        return path
    shipped = shipped_configs()
    if source not in shipped:
        raise ConfigError(f"{source}: no such file and no shipped config; {nearest(source, shipped)}")
    return shipped[source]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RangeTestConfig:
    """Read and validate a config.

    Args:
        path: the YAML file.
        overrides: ``KEY=VALUE`` with a dotted key, typed as in YAML; they win over the file.

    Raises:
        ConfigError: with every fault of file and overrides, each at its place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    document = read_yaml(text, str(path))
    document.value = {} if document.value is None else document.value
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:1:1: a config is a mapping of keys such as 'model:' and 'data:'")
    for override in overrides:
        _override(document, override)
    return _validate(document)


def _override(document: Document, override: str) -> None:
    key, equals, text = override.partition("=")
    place = f"command line, {override!r}"
    if not equals or not all(key.split(".")):
        document.faults.append((place, "an override is KEY=VALUE with a dotted key, for example sweep.epochs=2"))
        return
    path = tuple(key.split("."))
    value = read_yaml(text, place, at=path)
    document.faults += value.faults
    document.faulty |= value.faulty
    target = document.value
    for depth, part in enumerate(path[:-1], 1):
        document.places.setdefault(path[:depth], (place, place))
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            document.faults.append((place, f"{'.'.join(path[:depth])} holds one value, not keys"))
            return
    target[path[-1]] = value.value
    document.places |= value.places


def _validate(document: Document) -> RangeTestConfig:
    config = None
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    try:
        config = RangeTestConfig.model_validate(document.value)
    except ValidationError as invalid:
        for error in invalid.errors():
            loc = error["loc"] + tuple(error.get("ctx", {}).get("field", ()))
            grouped.setdefault(_known_part(loc, error, document), []).append(error)
    faults = list(document.faults)
    faults += [_fault(path, errors, document) for path, errors in grouped.items() if path not in document.faulty]
    if config is None or faults:
        raise ConfigError(*(f"{place}: {message}" for place, message in sorted(faults, key=_reading_order)))
    return config


def _known_part(loc: KeyPath, error: ErrorDetails, document: Document) -> KeyPath:
    """The key path of an error without the names that pydantic adds for the members of a union."""
    if error["type"] == "missing":
        return loc
    return next(loc[:end] for end in range(len(loc), -1, -1) if loc[:end] in document.places or end == 0)


def _fault(path: KeyPath, errors: list[ErrorDetails], document: Document) -> tuple[str, str]:
    name, error = ".".join(map(str, path)), errors[0]
    place = next(document.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in document.places)
    if error["type"] == "missing":
        return place[0], f"{name} is missing"
    if error["type"] == "extra_forbidden":
        where = f" in {'.'.join(map(str, path[:-1]))}" if path[:-1] else ""
        return place[0], f"unknown key {path[-1]!r}{where}; {nearest(str(path[-1]), _keys(path[:-1]))}"
    if error["type"] == "rule" and not error.get("ctx", {}).get("field"):
        return place[0], f"{name} {error['msg']}"
    value = error["input"]
    for part in error.get("ctx", {}).get("field", ()):
        value = value[part]
    rules = " or ".join(dict.fromkeys(_rule(each) for each in errors))
    return place[1], f"{name} = {value!r} {rules}{_hint(value, errors)}"


def _rule(error: ErrorDetails) -> str:
    """The rule that an error names, as the end of the sentence that begins with the field and its value."""
    context = error.get("ctx", {})
    rules = {
        "greater_than": "must be above {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be below {lt}",
        "less_than_equal": "must be at most {le}",
        "finite_number": "must be finite",
        "float_type": "must be a number",
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "string_type": "must be a text",
        "dict_type": "must be a mapping of keys and values",
        "model_type": "must be a mapping of keys and values",
        "literal_error": "must be {expected}",
        "string_pattern_mismatch": "must look like 'pkg.module:callable'",
    }
    return rules[error["type"]].format(**context) if error["type"] in rules else error["msg"]


def _hint(value: Any, errors: list[ErrorDetails]) -> str:
    kinds = {error["type"] for error in errors}
    if isinstance(value, str) and kinds & {"float_type", "int_type"}:
        number = read_yaml(value, "value") if len(value) < 40 and "\n" not in value else None
        if number is not None and isinstance(number.value, int | float):
            return f"; remove the quotes: {value}"
    if isinstance(value, str) and "literal_error" in kinds:
        expected = " ".join(str(error.get("ctx", {}).get("expected", "")) for error in errors)
        valid = [word for index, word in enumerate(expected.split("'")) if index % 2]
        return f"; {nearest(value, valid).partition('? ')[0]}?" if "did you mean" in nearest(value, valid) else ""
    return ""


def _keys(path: KeyPath) -> list[str]:
    """The valid keys of the section at ``path``."""
    tree: type[BaseModel] = RangeTestConfig
    for part in path:
        annotation = tree.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        tree = annotation
    return list(tree.model_fields)


def _reading_order(fault: tuple[str, str]) -> tuple[bool, list[int | str]]:
    """Faults of the file by line and column, then those of the command line."""
    parts = fault[0].rsplit(":", 2)
    on_line = len(parts) == 3 and parts[1].isdigit()
    return not on_line, [int(part) for part in parts[1:]] if on_line else [fault[0]]
