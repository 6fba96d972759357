"""Files of trainings as they lie in repositories -> the schedules in them."""

from __future__ import annotations

from pathlib import Path

from clrtool.errors import ConfigError
from clrtool.files import read_text
from clrtool.report.records.record_file import reading
from clrtool.report.trainings.configs import find_in_config
from clrtool.report.trainings.found import Found, Known, completed
from clrtool.report.trainings.scripts import find_in_script

_CONFIGS = (".json", ".yaml", ".yml")
# Files in which a schedule may be that is not read, each with what to do.
_NOT_READ = {
    ".bin": "a pickle, which may run any code when it is opened: give the arguments as JSON, as args.to_json_string() "
    "writes them",
    ".ipynb": "a notebook: save its code as a script",
    ".toml": "in TOML, which is not read: give its schedule with --from",
}
MAX_CHARACTERS = 2_000_000


def is_training(file: Path) -> bool:
    """Whether a file is one of a training, and not a plan or a config of clrtool's own."""
    ending = file.suffix.lower()
    if not file.is_file() or ending not in (".py", *_CONFIGS, *_NOT_READ):
        return False
    if ending not in _CONFIGS:
        return True
    text = _text(file)
    return "schema_version" not in text and not all(f"\n{word}:" in f"\n{text}" for word in ("model", "data"))


def read_training(file: Path, known: Known) -> tuple[Found, ...]:
    """The schedules of a DeepSpeed config, of TrainingArguments, or of a Python file that makes some.

    Raises:
        ConfigError: it has none that can be read, or leaves values open that the user does not give; with its line.
    """
    if file.suffix.lower() in _NOT_READ:
        raise ConfigError(f"{file}: {_NOT_READ[file.suffix.lower()]}")
    text = _text(file)
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{file}: of {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    if file.suffix.lower() == ".py":
        return completed(find_in_script(file, text, known), known)
    found = find_in_config(file, text, known)
    if found is None:
        raise ConfigError(
            f"{file}: neither a DeepSpeed config, which has a scheduler section, nor TrainingArguments, which have a "
            "learning_rate, nor a schedule with its type and parameters; give its schedule with --from"
        )
    return completed(found, known)


def _text(file: Path) -> str:
    with reading(file):
        return read_text(file)
