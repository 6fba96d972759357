"""A folder with one result: the config, what was measured in rows, the result that says it is finished, and a picture.

Comparisons and races over values have one; a range test has a folder of its own kind, with a curve that grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from clrtool.config.schema import RangeTestConfig
from clrtool.core.results.comparison import Comparison
from clrtool.core.results.varied import VaryRecord
from clrtool.errors import ConfigError
from clrtool.files import check_writable, write_whole
from clrtool.report.records.kinds import checked
from clrtool.report.records.record_file import CONFIG, intact, load, own_files

R = TypeVar("R", Comparison, VaryRecord)


@dataclass(frozen=True)
class ResultFiles(Generic[R]):
    """What the files are called, and how a record becomes them.

    Args:
        what: the record is, in a sentence.
        writer: the command that writes it.
        another: what tells it from another one.
        rows, stem: the name of the rows, and that of the others without their endings.
        to_rows, to_json: the content of the rows and of the result, which is sealed.
        made: a record of a folder and the values of its result.
    """

    what: str
    writer: str
    another: str
    rows: str
    stem: str
    to_rows: Callable[[R], str]
    to_json: Callable[[R], str]
    made: Callable[[Path, Mapping[str, Any]], R]

    @property
    def result(self) -> str:
        return f"{self.stem}.json"

    @property
    def picture(self) -> str:
        return f"{self.stem}.png"

    @property
    def names(self) -> tuple[str, ...]:
        """All of them; the last is what the picture shows in words."""
        return CONFIG, self.rows, self.result, self.picture, f"{self.stem}.alt.txt"

    @property
    def header(self) -> str:
        """The first line of the config: by it a folder is known as one of these, whose files may be replaced."""
        return f"# The resolved config of {self.what}, written by clrtool.\n"

    def open(self, folder: Path, request_sha256: str | None, *, fresh: bool = False) -> R | None:
        """Check that a folder is free for a request, and give back what is finished in it. Nothing is changed yet.

        Args:
            request_sha256: hash of what is asked for; None where it has to be measured first what that is.

        Raises:
            ConfigError: it holds another one and ``fresh`` is not set, or files of somebody else.
            MachineError: the folder cannot be written.
        """
        if self.result in own_files(folder, self.names, self.header, self.writer) and not fresh:
            record = self.read(folder)
            if record.request_sha256 != request_sha256:
                raise ConfigError(
                    f"{folder} holds {self.what} of {self.another}: give this one another folder with -o DIR, or "
                    "replace the old one with --fresh"
                )
            return record
        check_writable(folder)
        return None

    def begin(self, folder: Path, config: RangeTestConfig) -> None:
        """Write the config. What an earlier one left goes now, its result first."""
        for name in (self.result, self.rows, *self.names[3:]):
            (folder / name).unlink(missing_ok=True)
        write_whole(folder / CONFIG, self.header + config.to_yaml())

    def write(self, folder: Path, record: R) -> None:
        """Write the rows and then the result, whose presence says that everything is measured."""
        (folder / self.picture).unlink(missing_ok=True)  # of what is about to change
        write_whole(folder / self.rows, self.to_rows(record))
        write_whole(folder / self.result, self.to_json(record))

    def read(self, folder: Path) -> R:
        """Read what is finished. Raises ConfigError for a folder or a file that is not one of these."""
        file = folder / self.result
        with intact(file):
            try:
                return checked(self.made(folder, load(file)), self.to_json)
            except ConfigError as error:
                named = self.what.partition(" ")[2]
                raise ConfigError(*error.faults, f"{folder}: to replace this {named}, add --fresh") from error
