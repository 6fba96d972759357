"""``rangetest --write FILE`` and ``--check FILE``: keep what is recommended, and see whether it still holds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clrtool.cli.console import readable_or_not
from clrtool.cli.run.folder import is_other_data
from clrtool.cli.run.spec import RunSpec
from clrtool.errors import ConfigError
from clrtool.report.text.progress import say
from clrtool.words import argument, is_newer, printable, shell_command

if TYPE_CHECKING:
    from clrtool.core.results.recommendation import Change, Recommendation
    from clrtool.core.results.record import RunRecord

DRIFTED = 1


class DriftCheck:
    """The file that a range test is to write or to be held against.

    Args:
        words: config, values and options as they were given, for the command that mends what is found.
        write, check: the one or the other; neither for a range test alone.
        tolerance: by which share a bound may change, where it is written.
    """

    def __init__(
        self, spec: RunSpec, words: Sequence[str], write: Path | None, check: Path | None, tolerance: float | None
    ) -> None:
        if write is not None and check is not None:
            raise ConfigError("--write and --check: give only one of them")
        if tolerance is not None and write is None:
            raise ConfigError("--tolerance needs --write; --check uses the tolerance in the file")
        self._spec, self._write, self._check, self._tolerance = spec, write, check, tolerance
        # the folder may hold a run of other inputs
        config, *others = words
        self._mend = shell_command("clrtool", "rangetest", argument(config), *others, "--fresh", "--write", check)

    def before(self) -> None:
        """See what can be seen without training: exits with 1 if the file is missing, or of other inputs.

        Raises:
            ConfigError: the file is there and is none of ours, or one that was damaged.
            MachineError: the file could not be written where it is to be.
        """
        if self._write is not None:
            self._check_place(self._write)
        if self._check is None or not (lines := self._known_before(self._check)):
            return
        if self._spec.display.as_json:  # nothing else is printed
            with readable_or_not():
                typer.echo(json.dumps({"status": "stale", "code": DRIFTED, "message": "\n".join(lines)}))
        self._fail(lines)

    def _check_place(self, write: Path) -> None:
        from clrtool.files import check_writable
        from clrtool.report.records.plan_file import read_bounds

        check_writable(write.parent)
        if os.path.lexists(write):
            read_bounds(write)

    def _known_before(self, check: Path) -> list[str]:
        """Why a file does not hold, as far as that is known before a training."""
        try:
            check.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return [f"{check}: no such file yet"]
        from clrtool.report.records.plan_file import read_bounds

        kept = read_bounds(check)
        stale, settings = self._changed_settings(kept), self._spec.config
        if not stale and (settings.factories() or settings.model.weights or settings.start):
            from clrtool.engine.configured.sources import source_hashes

            stale = _changed_sources(kept, source_hashes(settings, self._spec.options.folder))
        if not stale and settings.data.factory is None and settings.seed == kept.seed:
            stale = self._changed_data(kept)
        return _as_stale(check, stale) if stale else []

    def after(self, record: RunRecord) -> None:
        """Write the file, or hold the range test against it: exits with 1 if the recommendation has drifted."""
        from clrtool.core.results.recommendation import recommendation

        if record.bounds.max_lr is None:  # its exit code says so
            return
        new = recommendation(record, self._spec.config.model_dump(mode="json"))
        if self._write is not None:
            self._keep(self._write, new)
        elif self._check is not None:
            self._hold(self._check, new)

    def _changed_settings(self, kept: Recommendation) -> list[str]:
        from clrtool.core.results.recommendation import RULE_VERSION, changed_inputs

        changed = list(changed_inputs(kept.config, self._spec.config.model_dump(mode="json", exclude={"seed"})))
        newer = " (a newer clrtool wrote the file: upgrade clrtool)" if is_newer(kept.rule, RULE_VERSION) else ""
        other_rule = f"the rule for reading bounds: version {kept.rule} -> {RULE_VERSION}{newer}"
        return changed if kept.rule == RULE_VERSION else [*changed, other_rule]

    def _changed_data(self, kept: Recommendation) -> list[str]:
        from clrtool.engine.configured.build import data_sha256

        options = self._spec.options
        found = data_sha256(self._spec.config, device=options.device, download=options.download)
        return self._other_data(kept, found)

    def _other_data(self, kept: Recommendation, data_sha256: str) -> list[str]:
        """Of another seed the split may be another, so nothing can be said of the data."""
        same_seed = kept.seed == self._spec.config.seed
        return ["the data: its hash has changed"] if same_seed and is_other_data(kept.data_sha256, data_sha256) else []

    def _keep(self, file: Path, new: Recommendation) -> None:
        """Write what has changed; inside the tolerance the old bytes stay, so that git shows no difference."""
        from clrtool.report.records.plan_file import read_bounds, write_bounds

        old = read_bounds(file) if file.is_file() else None
        tolerance = (old or new).tolerance if self._tolerance is None else self._tolerance
        if old is not None and not self._stale(old, new) and not _drifted(replace(old, tolerance=tolerance), new):
            if old.tolerance == tolerance:
                say(f"{file}: unchanged: both bounds are within noise or a tolerance of {tolerance:.0%}")
                return
            new = old
        write_bounds(file, replace(new, tolerance=tolerance))
        say(f"{file}: written")

    def _hold(self, file: Path, new: Recommendation) -> None:
        from clrtool.core.results.recommendation import changes
        from clrtool.report.records.plan_file import read_bounds

        old = read_bounds(file)
        if stale := self._stale(old, new):
            self._fail(_as_stale(file, stale))
        if drifted := _drifted(old, new):
            self._fail([f"{file}: the recommendation has drifted", *drifted])
        say(f"{file}: holds: both bounds are within noise or a tolerance of {old.tolerance:.0%}")
        _summarise(f"{file} holds", [_told(each) for each in changes(old, new)])

    def _stale(self, old: Recommendation, new: Recommendation) -> list[str]:
        """All inputs that have changed, those too that only a run shows."""
        return [
            *self._changed_settings(old),
            *self._other_data(old, new.data_sha256),
            *_changed_sources(old, new.sources),
        ]

    def _fail(self, lines: Sequence[str]) -> None:
        text = "\n  ".join(lines)
        say(f"{text}\nto fix it: {self._mend}")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            typer.echo(
                _annotation(_encodable(str(self._check)), _encodable(f"{text}\nto fix it: {self._mend}")), err=True
            )
        _summarise(lines[0], [*lines[1:], f"to fix it: {self._mend}"])
        raise typer.Exit(DRIFTED)


def _as_stale(file: Path, changed: Sequence[str]) -> list[str]:
    return [f"{file} is stale: it was measured with different inputs", *changed]


def _changed_sources(old: Recommendation, now: Mapping[str, str]) -> list[str]:
    """The code and the weights that are not those of the file."""
    from clrtool.engine.configured.sources import changed_sources

    return [
        f"{name}: {'its hash has changed' if name in now else 'is missing'}"
        for name in changed_sources(old.sources, now)
    ]


def _drifted(old: Recommendation, new: Recommendation) -> list[str]:
    from clrtool.core.results.recommendation import changes

    return [_told(each) for each in changes(old, new) if each.has_drifted]


def _told(change: Change) -> str:
    noise = "too few seeds to estimate the noise" if change.noise is None else f"noise {change.noise:.2f}"
    return (
        f"{change.name}: {change.old:.3g} -> {change.new:.3g}, a factor of {change.factor:.2f} (allowed "
        f"{change.allowed:.2f}, {noise})"
    )


def _encodable(text: str) -> str:
    """The text without halves of characters, as a name of a file has them that is no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _annotation(file: str, message: str) -> str:
    """A workflow command of GitHub, which shows the message at the file."""

    def escaped(text: str, more: str = "") -> str:
        for sign in "%\r\n" + more:
            text = text.replace(sign, f"%{ord(sign):02X}")
        return text

    return f"::error file={escaped(file, ':,')}::{escaped(message)}"


def _summarise(title: str, lines: Sequence[str]) -> None:
    """Add to the summary of a step on GitHub, where there is one. That it cannot be written changes no verdict.

    What configs and files say stands in a fence that none of it can end, so that it is shown as it is.
    """
    if not (file := os.environ.get("GITHUB_STEP_SUMMARY")):
        return
    text = printable("\n".join([title, *(f"  {line}" for line in lines)]))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    try:
        # a pipe that nobody reads is an error, and not waited for
        appended = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        with open(appended, "a", encoding="utf-8") as summary:  # noqa: PTH123 (it is open)
            summary.write(f"### clrtool\n\n{fence}text\n{text}\n{fence}\n\n")
    except OSError as error:
        say(f"{file}: the summary of the step cannot be written: {error.strerror}")
