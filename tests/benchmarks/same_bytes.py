"""Whether two checkouts do the same, to the byte: what a change of structure has to leave as it is.

``python -m tests.benchmarks.same_bytes BEFORE AFTER [--only WORD]``, from the root of this repository; BEFORE and AFTER
are folders that hold ``clrtool/`` and ``configs/``. The commands below are run on both, the same one at the same time,
and after each the exit code, stdout, stderr and every file that is new or changed are compared. A line for each says
``same``, or what differs first. Exit code 1: something differs. It takes some minutes on two cores.

The commands stand in groups, each with a folder of its own, where a command finds what those before it have left.
``--only WORD`` runs the groups that hold a line with this word. With BEFORE twice it tells what varies by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import zip_longest
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

# FAST and NUMBERS stand for these words; ``interrupt`` in front sends SIGINT after the first checkpoint.
SHORT_WORDS = {
    "FAST": "-q --deterministic --seeds 2 sweep.epochs=2 sweep.evaluations=10 sweep.start_lr=0.001 sweep.end_lr=3",
    "NUMBERS": "--base-lr 0.001 --max-lr 0.006 --iterations-per-epoch 47 --epochs 30",
}
COMMANDS = """
rangetest digits --deterministic
rangetest digits --deterministic --json
rangetest digits --deterministic -q --plain
rangetest digits --deterministic -q seed=1
rangetest digits --deterministic -q --write digits.bounds.json
rangetest digits --deterministic -q --check digits.bounds.json
rangetest digits --deterministic -q --check digits.bounds.json data.batch_size=64
plan digits
plan digits --plain
plan digits --format json
plan digits --format yaml
plan digits --format csv
plan digits --format torch
plan digits --format lightning
plan digits --format transformers
plan digits --format keras
plan digits --format optax
plan digits --format deepspeed
plan digits --format caffe
plan digits --policy one_cycle --epochs 10 -o plan.json
plan --curve runs/digits/curve.csv
plot digits
plot digits -o digits.png
plot digits -o digits.svg
plot digits -o digits.pdf
plot digits -o digits.html
plot digits --term
plot digits --tensorboard logs
plot plan.json -o plan.html
plot --from plan.json digits -o both.svg
compare digits --deterministic -q --policies fixed,one_cycle --seeds 2 --epochs 4
plot digits-compare -o compare.html

plan NUMBERS
plan NUMBERS --policy one_cycle --format deepspeed
plan NUMBERS --policy exp_range gamma=0.999 --format torch
plan NUMBERS --momentum 0.85,0.95 --warmup-epochs 2 -o plan.yaml
plan plan.yaml --format keras
plan --iterations-per-epoch 47 --stage 0.001-0.005/200:1600 --stage 0.0001-0.0005/100:2000
plan --from torch:CyclicLR base_lr=0.001 max_lr=0.006 step_size_up=200 --format keras
plan --from torch:OneCycleLR max_lr=0.1 total_steps=30 --iterations 1410 --iterations-per-epoch 47 --lint
plan --from keras:CosineDecay initial_learning_rate=0.1 decay_steps=100 --iterations 120 --format csv
plan --from nothing:Here
plot --from torch:OneCycleLR max_lr=0.1 total_steps=1410 --iterations-per-epoch 47 -o one_cycle.png

rangetest digits FAST --verify --json

rangetest digits --seeds 3 sweep.epochs=2 -q --deterministic
rangetest digits FAST -o runs/adamw optimizer.name=AdamW optimizer.args={weight_decay: 0.05} precision=bf16
rangetest digits FAST -o runs/micro training.micro_batches=4 training.clip_norm=1.0 model.args.dropout=0.1
rangetest digits FAST -o runs/loss metric=loss
rangetest digits FAST -o runs/groups optimizer.groups=[{params: ['*.bias'], lr_ratio: 2}] data.workers=1

rangetest text FAST data.args.path=book.txt model.args={depth: 1, width: 16, heads: 2} data.args.length=16

init custom mine.yaml
rangetest mine.yaml FAST --allow-import custom_factories:*
rangetest mine.yaml FAST -o runs/forbidden

init custom mine.yaml
compare mine.yaml -q --deterministic --allow-import custom_factories:* --policies fixed,triangular2 --seeds 2 --epochs 5

compare digits -q --deterministic --bounds 0.02,0.2 --policies fixed,triangular2 --seeds 2 --epochs 4 --json

rangetest digits FAST --jobs 2 --seeds 4
rangetest digits FAST --seeds 4 -o runs/array --seed-shard 1/2
rangetest digits FAST --seeds 4 -o runs/array --seed-shard 2/2
merge runs/array -q

interrupt rangetest digits -q --deterministic --seeds 2 sweep.epochs=80 --checkpoint-every 0.05
rangetest digits -q --deterministic --seeds 2 sweep.epochs=80 --checkpoint-every 0.05

init
init mine.yaml --model torchvision.resnet18 --data image_folder:photos
init digits
schema
rangetest digits FAST --dry-run --json
rangetest digits sweep.sedes=5 data.batchsize=3 sweep.epochs=010
rangetest digits model.name=mpl
rangetest digits --json swep.epochs=2
rangetest digits FAST --device cuda:7
rangetest missing.yaml
rangetest text data.args.path=missing.txt
plan missing
merge runs/missing
compare digits --policies fixed,triangel -q --bounds 0.02,0.2

python program.py
python lightning_program.py
python transformers_program.py
"""

# What a program in Python finds, and the files that commands read: each group starts with them.
PROGRAM = """
import pprint
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

QUICK = {"start_lr": 1e-3, "end_lr": 1.0, "sweep_epochs": 3, "evaluations": 8, "seeds": 2, "epochs": 8,
         "progress": False, "deterministic": True}

def blobs(size, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 8, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] + 0.3 * torch.randn(size, generator=generator) > 0).long())

def tell(test):
    pprint.pp(vars(test.record), width=120)
    print(test, test.plan, sep="\\n")

torch.manual_seed(0)
train, heldout = DataLoader(blobs(320, 0), 32, shuffle=True), DataLoader(blobs(200, 1), 50)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
"""
FILES = {
    "program.py": PROGRAM
    + """
import clrtool

def step(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
tell(clrtool.range_test(net, optimizer, train, heldout, **QUICK))
tell(clrtool.range_test(net, optimizer, train, heldout, step=step, clip_norm=1.0, **QUICK))
print(clrtool.find_bounds(lr=[1e-3, 1e-2, 1e-1, 1, 10], accuracy=[0.1, 0.4, 0.9, 0.9, 0.1]))
print(torch.rand(1), net[0].weight.sum())
""",
    "lightning_program.py": PROGRAM
    + """
import lightning.pytorch as pl
import clrtool.lightning

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

def trainer(*callbacks):
    return pl.Trainer(max_epochs=2, callbacks=list(callbacks), accelerator="cpu", logger=False,
                      enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)

loaders = {"train_dataloaders": train, "val_dataloaders": heldout}
tell(clrtool.lightning.range_test(trainer(), Module(), **loaders, **QUICK))
callback = clrtool.lightning.LRRangeTest(monitor="val_acc", **QUICK)
trainer(callback).fit(Module(), **loaders)
tell(callback.result)
print(net[0].weight.sum())
""",
    "transformers_program.py": PROGRAM
    + """
import transformers
import clrtool.transformers

class Sentences(torch.utils.data.Dataset):
    def __init__(self, size, seed):
        self.ids = torch.randint(0, 40, (size, 8), generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, place):
        return {"input_ids": self.ids[place], "labels": int(self.ids[place, 0] > 20)}

config = transformers.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=32, max_position_embeddings=8)
arguments = transformers.TrainingArguments("out", report_to=[], num_train_epochs=2, per_device_train_batch_size=20,
                                           disable_tqdm=True, use_cpu=True, save_strategy="no")
trainer = transformers.Trainer(transformers.BertForSequenceClassification(config), arguments,
                               train_dataset=Sentences(400, 0), eval_dataset=Sentences(100, 1))
test = clrtool.transformers.range_test(trainer, **QUICK)
tell(test)
trainer.remove_callback(transformers.PrinterCallback)  # it prints times
clrtool.transformers.apply_plan(trainer, test.plan)
trainer.train()
print(next(trainer.model.parameters()).sum())
""",
    "book.txt": "".join(f"{number} times {number} is {number**2}, " for number in range(1000)),
}

# What varies from run to run, even with --deterministic.
MASKS = {
    # what --dry-run has timed, and found free on this machine
    r'("\w*seconds": )[\d.e-]+': r"\1SECONDS",
    r'("(peak|memory|free)_bytes": )\d+': r"\1BYTES",
    # a line of progress every ten seconds
    r"(?m)^seed \d+/\d+ .* left *\n": "",
}
# The checkpoint of a shard holds seconds, and its name the hash of them; the run that is merged tells what else it holds.
CHECKPOINT = re.compile(r"(.*/checkpoint/\d+)-[0-9a-f]{64}(\.\w+)")


Files = dict[str, bytes]
# Each command is a fork of a process that has imported what takes seconds, and nothing of clrtool.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["matplotlib.pyplot", "pydantic", "rich.console", "ruamel.yaml", "torchvision", "typer"])


class Side(NamedTuple):
    """One of the checkouts: a copy of it, and the folder where its commands run. Both have paths of the same length."""

    code: Path
    work: Path
    output: Path

    @classmethod
    def of(cls, checkout: Path, place: Path) -> Side:
        for name in ("clrtool", "configs"):
            shutil.copytree(checkout / name, place / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
        return cls(place / "code", place / "work", place / "output")

    def clear(self) -> None:
        """Begin a group."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for name, text in FILES.items():
            (self.work / name).write_text(text)

    def start(self, words: list[str]) -> ForkServerProcess:
        process = FORKS.Process(target=become, args=(self, words))
        process.start()
        return process

    def has_checkpoint(self) -> bool:
        return any(self.work.glob("runs/*/checkpoint/*"))

    def files(self) -> Files:
        """All in the folder, and what the last command has said."""
        paths = {str(path.relative_to(self.work)): path for path in self.work.rglob("*") if path.is_file()}
        return {
            CHECKPOINT.sub(r"\1\2", name): b"" if CHECKPOINT.fullmatch(name) else path.read_bytes()
            for name, path in paths.items()
        }

    def said(self) -> Files:
        return {name: (self.output.with_suffix(f".{name}")).read_bytes() for name in ("stdout", "stderr")}

    def masked(self, content: bytes) -> bytes:
        """Without the folder, which is another one for each side, and without what varies."""
        content = content.replace(str(self.work.parent).encode(), b"FOLDER")
        for pattern, mask in MASKS.items():
            content = re.sub(pattern.encode(), mask.encode(), content)
        return content


def become(side: Side, words: list[str]) -> None:
    """In a process of its own: be ``python -m clrtool WORDS``, or the program after the word ``python``."""
    os.chdir(side.work)
    os.environ["PYTHONPATH"] = str(side.code)  # of the processes that it starts
    sys.path[:0] = [str(side.work), str(side.code)]
    for name, number in (("stdout", 1), ("stderr", 2)):
        with side.output.with_suffix(f".{name}").open("wb") as file:
            os.dup2(file.fileno(), number)
    if words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
    else:
        sys.argv = ["clrtool", *words]
        runpy.run_module("clrtool", run_name="__main__", alter_sys=True)


def run(line: str, sides: list[Side]) -> list[Files]:
    """What a command leaves on each side: files that it made or changed, what it said, and its exit code."""
    words, before = split(line), [side.files() for side in sides]
    is_interrupted = words[0] == "interrupt"
    processes = [side.start(words[is_interrupted:]) for side in sides]
    if is_interrupted:
        interrupt(sides, processes)
    for process in processes:
        process.join()
    return [
        # at which iteration it came to a stop is left to chance
        side.said() | {"exit code": str(process.exitcode).encode()} | ({} if is_interrupted else changed(side, had))
        for side, process, had in zip(sides, processes, before, strict=True)
    ]


def interrupt(sides: list[Side], processes: list[ForkServerProcess]) -> None:
    """Send SIGINT to each as soon as it has a checkpoint."""
    waiting = dict(enumerate(processes))
    while waiting:
        for number, process in list(waiting.items()):
            if not process.is_alive():
                del waiting[number]
            elif sides[number].has_checkpoint():
                os.kill(waiting.pop(number).pid or 0, signal.SIGINT)
        time.sleep(0.01)


def changed(side: Side, before: Files) -> Files:
    return {name: content for name, content in side.files().items() if before.get(name) != content}


def split(line: str) -> list[str]:
    """The words of a command; what stands in brackets is one, as it would be in quotes."""
    for short, words in SHORT_WORDS.items():
        line = re.sub(rf"\b{short}\b", words, line)
    return shlex.split(re.sub(r"\S+[{\[].*[}\]]", lambda found: shlex.quote(found[0]), line))


def differences(before: Files, after: Files) -> Iterator[str]:
    """A line for each file that differs, with the first line of it that does."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{name} only {'after' if name in after else 'before'}"
        elif before[name] != after[name]:
            lines = zip_longest(before[name].splitlines(), after[name].splitlines())
            number, (old, new) = next((place, pair) for place, pair in enumerate(lines, 1) if pair[0] != pair[1])
            start = len(os.path.commonprefix([old or b"", new or b""])) - 40  # noqa: RUF071 (characters are meant)
            yield f"{name}, line {number}: {shown(old, start)} -> {shown(new, start)}"


def shown(line: bytes | None, start: int) -> str:
    """A line from shortly before what differs."""
    return "nothing" if line is None else repr(line[max(start, 0) :][:100])[1:]


def compare(sides: list[Side], only: str) -> bool:
    """Run all groups on both sides, and say what differs. Gives whether all is the same."""
    same = True
    for group in COMMANDS.strip().split("\n\n"):
        if only not in group:
            continue
        for side in sides:
            side.clear()
        for line in group.splitlines():
            left = run(line, sides)
            before, after = (
                {name: side.masked(content) for name, content in files.items()}
                for side, files in zip(sides, left, strict=True)
            )
            found = list(differences(before, after))
            same = same and not found
            verdict, code = "differs" if found else "same", before["exit code"].decode()
            print(f"{verdict:8}{code:>3}  {line}", *(f"\n    {each}" for each in found), flush=True)
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", metavar="WORD", default="", help="groups of commands with this word in a line")
    given = parser.parse_args()
    begin = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side.of(given.before, Path(folder, "1")), Side.of(given.after, Path(folder, "2"))]
        same = compare(sides, given.only)
    print(f"{'all the same' if same else 'something differs'}, in {time.monotonic() - begin:.0f} s")
    sys.exit(not same)


if __name__ == "__main__":
    main()
