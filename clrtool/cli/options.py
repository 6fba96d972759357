"""Options that commands share, and what is read from those that were given."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from clrtool.cli.complete import configs
from clrtool.cli.help import CI, DEVICE, MACHINES, OUTPUT, RUN, rare
from clrtool.cli.run.spec import BuildOptions, Display


class OnOom(StrEnum):
    """What to do where a batch does not fit into memory."""

    stop = "stop"
    accumulate = "accumulate"


CONFIG_HELP = "YAML file, or a shipped config such as digits."
OVERRIDE_HELP = "Values such as optimizer=AdamW."
Config = Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=configs)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=OVERRIDE_HELP)]
OptionalConfig = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=configs, show_default=False)
]
More = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG|KEY=VALUE]...", help="More configs; values such as optimizer=AdamW."),
]
Output = Annotated[
    Path | None, typer.Option("-o", metavar="DIR", help="Run folder.  [default: runs/CONFIG]", rich_help_panel=RUN)
]
Seeds = Annotated[
    int | None,
    typer.Option(metavar="N", help="Random seeds; short for sweep.seeds=N.", rich_help_panel=MACHINES),
]
Jobs = Annotated[
    int,
    typer.Option(metavar="N", min=1, max=256, help="Processes that share seeds or configs.", rich_help_panel=MACHINES),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=4096,
        help="CPU threads per process.  [default: torch's; with --jobs N, cores / N]",
        rich_help_panel=rare(MACHINES),
    ),
]
SeedShard = Annotated[
    str | None,
    typer.Option(
        metavar="K/N|slurm",
        help="Run shard K of N: every Nth seed, from the Kth on; slurm takes both from the job array. Its results go "
        "to shards/K-of-N in the run folder, for clrtool merge.",
        rich_help_panel=rare(MACHINES),
    ),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS|local", help="Run each seed as a Ray task.", rich_help_panel=rare(MACHINES)),
]
RayGpus = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0.01,
        max=1,
        help="GPU of each Ray task: with 0.25, four seeds share one.  [default: 1 where the cluster has any]",
        rich_help_panel=rare(MACHINES),
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Cost limit, as a share of the planned training.",
        rich_help_panel=RUN,
    ),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="KEY=V1,V2",
        help="Race values of another key with the rate.",
        rich_help_panel=RUN,
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="CHECKPOINT",
        help="Training under way to go on from, a file or folder that it saved; short for start=CHECKPOINT.",
        rich_help_panel=rare(RUN),
    ),
]
VaryGroups = Annotated[
    bool,
    typer.Option(
        "--vary-groups", help="Race a quarter and four times a group's lr_ratio too.", rich_help_panel=rare(RUN)
    ),
]
Verify = Annotated[bool, typer.Option("--verify", hidden=True, help="Same as --budget 1.")]
Dry = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Estimate time, memory and disk; write nothing.", rich_help_panel=RUN),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over: replace the run folder's content.", rich_help_panel=RUN)
]
AllowImport = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Code that the config may import: 'pkg.module:*'.",
        rich_help_panel=RUN,
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="Get the same bytes each time on the same machine.", rich_help_panel=rare(DEVICE)
    ),
]
OnOomOption = Annotated[
    OnOom,
    typer.Option(
        metavar="stop|accumulate",
        help="Action when a batch does not fit into memory: stop, or split it into micro-batches.",
        rich_help_panel=rare(DEVICE),
    ),
]
Write = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Save bounds and plan, to be committed.", rich_help_panel=CI),
]
Check = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Exit with 1 if the saved bounds no longer hold.", rich_help_panel=CI),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Share by which a bound may change; with --write.  [default: the file's, or 0.15]",
        rich_help_panel=rare(CI),
    ),
]
Device = Annotated[
    str,
    typer.Option(metavar="NAME", help="auto (CUDA if any), cpu, cuda:N.", rich_help_panel=DEVICE),
]
Download = Annotated[
    bool, typer.Option("--download", help="Let torchvision download the dataset.", rich_help_panel=RUN)
]
Json = Annotated[bool, typer.Option("--json", help="Print result.json and nothing else.", rich_help_panel=OUTPUT)]
Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="Show the race, the sweep and the cost too.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Show no progress, only the result.", rich_help_panel=OUTPUT)
]
Every = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="Time between checkpoints.", rich_help_panel=rare(RUN))
]


def build_options(params: Mapping[str, Any], path: Path) -> BuildOptions:
    """What a workload is built with, from the options of a command and the place of its config."""
    allowed = tuple(params["allow_import"] or ())
    deterministic = bool(params.get("deterministic"))
    return BuildOptions(params["device"], allowed, params["download"], path.parent, deterministic)


def display_of(params: Mapping[str, Any]) -> Display:
    """How a command tells what it does."""
    quiet, verbose = params["quiet"] or params["as_json"], bool(params.get("verbose"))
    return Display(quiet, params["plain"], params["as_json"], verbose)
