"""The shards of an array: a process that trains its share of the seeds, and whoever reads all shares as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrtool.cli.run.executor import Executor
from clrtool.cli.run.seed_share import SeedShare
from clrtool.cli.run.spec import RunSpec
from clrtool.errors import ConfigError

if TYPE_CHECKING:
    from clrtool.engine.resume.journal import Assignment, RemoteResults
    from clrtool.engine.resume.sharding import FinishedShard


class ShardWorker(Executor):
    """A share of the seeds is trained in this process: a shard of an array, a worker of ``--jobs``, or both."""

    def __init__(self, spec: RunSpec, share: SeedShare) -> None:
        super().__init__(spec)
        self.share = share

    def shared(self, about: Mapping[str, Any]) -> tuple[RemoteResults, Assignment]:
        from clrtool.engine.resume.sharding import AgreedScout, known_to, shard_assignment, union

        agreed = AgreedScout(self.share.common, about)
        known = known_to(self.share.siblings(), about, agreed)
        remote = union(self.results(), about)
        remote = replace(remote, finished={**known.finished, **remote.finished})
        return remote, shard_assignment(self.share.shards, self._spec.config.seed, agreed)


class ShardArray(Executor):
    """The seeds were trained by shards; what none of them could know of is trained here."""

    def __init__(self, spec: RunSpec, found: Sequence[FinishedShard]) -> None:
        super().__init__(spec)
        self._found = found

    def results(self) -> Sequence[Path]:
        return [*(each.folder for each in self._found), *super().results()]

    def assigned(self, seeds: Sequence[int]) -> Sequence[int]:
        """All that lack; but those of a shard that is missing are its own business: raises ConfigError."""
        first = self._found[0]
        of, given = first.shard.of, {each.shard.number for each in self._found}
        if numbers := sorted({(seed - self._spec.config.seed) % of + 1 for seed in seeds} - given):
            options = " and with ".join(f"--seed-shard {k}/{of}" for k in numbers)
            raise ConfigError(
                f"shard {', '.join(f'{k}/{of}' for k in numbers)} is missing: run the command that made {first.folder} "
                f"with {options} instead"
            )
        return seeds
