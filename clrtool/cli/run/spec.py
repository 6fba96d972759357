"""What a command was asked to measure, and where: read once from the command line, and never changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clrtool.config.schema import RangeTestConfig
    from clrtool.engine.configured.workload import ConfiguredWorkload
    from clrtool.engine.runtime.distributed import ProcessGroup


@dataclass(frozen=True)
class BuildOptions:
    """What ``build_workload`` takes beside the config.

    Args:
        folder: where the config lies, and factories may stand.
    """

    device: str = "auto"
    allow_import: tuple[str, ...] = ()
    download: bool = False
    folder: Path = Path()
    deterministic: bool = False


@dataclass(frozen=True)
class Display:
    """How a command tells what it does.

    Args:
        quiet: no progress.
        plain: nothing that moves, and sentences in place of tables and charts.
        as_json: one JSON object on stdout, and nothing else.
        verbose: what experts want to know of a result too.
    """

    quiet: bool = False
    plain: bool = False
    as_json: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class RunSpec:
    """One measurement as it was asked for.

    Args:
        path, overrides: the config's file and the values over its own, which an error names.
        config: the same, resolved.
        folder: of the run.
        options: what a workload is built with.
        display: how it is told.
        checkpoint_every: seconds between checkpoints.
        accumulate: whether a batch that does not fit is taken in micro-batches.
        fresh: whether what the folder holds is to be replaced.
        threads: that torch computes with; None for as many as it takes by itself.
    """

    path: Path
    overrides: tuple[str, ...]
    config: RangeTestConfig
    folder: Path
    options: BuildOptions
    display: Display
    checkpoint_every: float
    accumulate: bool = False
    fresh: bool = False
    threads: int | None = None

    def build(
        self, *, micro_batches: int | None = None, epochs: float | None = None, ranks: ProcessGroup | None = None
    ) -> ConfiguredWorkload:
        """The workload, ready to be trained."""
        from clrtool.engine.configured.build import build_workload
        from clrtool.engine.runtime.ranks import SINGLE_PROCESS

        given = vars(self.options)
        return build_workload(
            self.config, **given, micro_batches=micro_batches, epochs=epochs, ranks=ranks or SINGLE_PROCESS
        )

    def located(self) -> AbstractContextManager[None]:
        """Have an error about a value name the place where that stands."""
        from clrtool.config.file import located

        return located(self.path, self.overrides)


def read_spec(
    path: Path,
    overrides: Sequence[str],
    folder: Path,
    options: BuildOptions,
    display: Display,
    *,
    checkpoint_every: float,
    accumulate: bool,
    fresh: bool = False,
    threads: int | None = None,
) -> RunSpec:
    """What a command was asked for, with its config read. Raises ConfigError for one that is not valid."""
    from clrtool.config.file import load_config
    from clrtool.files import check_here

    check_here()
    if options.deterministic:  # cuBLAS reads it when it is loaded
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = load_config(path, overrides)
    return RunSpec(path, tuple(overrides), config, folder, options, display, checkpoint_every, accumulate, fresh,
                   threads)  # fmt: skip
