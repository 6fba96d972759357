"""Every command that clrtool prints for a person to paste: read by a shell as it was printed, and run where it was.

A command that is printed and has no case here fails a test, and so does a case whose command is printed no more.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest

import clrtool
from clrtool.cli.guide import TOPICS, page
from clrtool.cli.help import parts
from clrtool.cli.main import app
from clrtool.config.file import load_config
from clrtool.config.shipped import shipped_configs
from clrtool.report.records.run import HEADER
from clrtool.words import printable, shell_command
from tests.conftest import QUICK
from tests.torture.runs import wait_for

SOURCES = Path(clrtool.__file__).parent
NAMES = "rangetest|plan|plot|compare|init|merge|doctor|guide|schema|--help"
# A command in a text, up to what cannot be a part of it.
COMMAND = re.compile(rf"\bclrtool (?:{NAMES})(?:[^\n;:,()`]*?(?=  |[\n;:,()`]|\. |$))")
# The folders that these tests give to commands; a person may call one so.
ODD = ["my runs", 'it\'s "one"', "$HOME;`id`", "-x", "a=b", "café*", "two::dots", "a\x1b[31mb", "line\nline"]
CASES = {}


def case(file, *commands):
    """Mark a test as the one that runs these commands of a file."""

    def mark(test):
        CASES.setdefault(file, set()).update(commands)
        return test

    return mark


@pytest.fixture
def paste(cli, tmp_path_factory, monkeypatch):
    """Give a line to a shell, and run what that makes of it in this process: the words as the shell has read them."""
    place = tmp_path_factory.mktemp("bin")
    (place / "clrtool").write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > "{place}/words"\n')
    (place / "clrtool").chmod(0o755)

    def run(line, *more):
        environment = os.environ | {"PATH": f"{place}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-c", line], check=True, env=environment, timeout=20)
        words = (place / "words").read_bytes().split(b"\0")[:-1]
        return cli(*map(os.fsdecode, words), *more)

    return run


def after(text, told):
    """What follows a text on its line."""
    assert text in told, told
    return told.partition(text)[2].partition("\n")[0].strip()


@pytest.fixture
def code():
    """A model and data in the current folder."""
    Path("train.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layers = nn.Linear(6, 3)

                def forward(self, x):
                    return self.layers(x)

            def get_data():
                x = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
                return (x[:400], x[:400, :3].argmax(1)), (x[400:], x[400:, :3].argmax(1))
            """
        )
    )


def printed_commands():
    """The commands in all texts of the sources that are no docstrings, and those that are put together, by file."""
    found = {}
    for file in SOURCES.rglob("*.py"):
        tree = ast.parse(file.read_text())
        nodes = list(ast.walk(tree))
        inside = {id(part) for each in nodes if isinstance(each, ast.JoinedStr) for part in ast.walk(each)} - {None}
        docs = {id(each.value) for each in nodes if isinstance(each, ast.Expr)}
        for each in nodes:
            if isinstance(each, ast.JoinedStr):
                texts = COMMAND.findall("".join(p.value if isinstance(p, ast.Constant) else "{}" for p in each.values))
            elif isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in docs | inside:
                texts = COMMAND.findall(each.value)
            elif isinstance(each, ast.Call) and ast.unparse(each.func) == "shell_command" and file.name != "words.py":
                texts = [" ".join(map(ast.unparse, each.args))]
            else:
                continue
            if texts:
                found.setdefault(str(file.relative_to(SOURCES)), set()).update(map(str.strip, texts))
    return found


def test_every_command_that_is_printed_is_run_by_a_test():
    assert {file: sorted(texts) for file, texts in printed_commands().items()} == {
        file: sorted(texts) for file, texts in CASES.items()
    }


@pytest.mark.parametrize("word", [*ODD, "", "'", "\udcff", "\u202e", "##[x]", "a\\b", "!x", "#x", "x y\tz"])
def test_a_word_of_a_command_is_read_by_a_shell_as_it_was(word):
    line = printable(shell_command("printf", "%s\\0", word, "end"))
    assert "\n" not in line
    read = subprocess.run(["bash", "-c", line.encode()], capture_output=True, check=True).stdout
    assert read == os.fsencode(word) + b"\0end\0"


def lines_of_help():
    for name, command in {None: app, **{each.callback.__name__: each for each in app.registered_commands}}.items():
        text = command.callback.__doc__ if name else command.registered_callback.callback.__doc__
        for line in parts(textwrap.dedent(f"    {text}"))[1]:
            yield pytest.param(line, id=line)


SMALL = ["rangetest", "mine.yaml", *QUICK, "--allow-import", "train:*"]


@pytest.mark.parametrize("line", dict.fromkeys(each.values[0] for each in lines_of_help()))
def test_an_example_of_help_runs_where_what_it_names_is_there(cli, paste, code, line):
    Path("train.py").rename("model.py") if "merge runs/mine" in line else None
    module = "model" if "merge runs/mine" in line else "train"
    if "init" not in line:
        cli("init", "mine.yaml", "--model", f"{module}:Net", "--data", f"{module}:get_data")
        cli("init", "digits", "digits.yaml") if "digits" in line else None
    words = ["rangetest", "mine.yaml", *QUICK, "--allow-import", f"{module}:*"]
    if line.startswith(("clrtool plan digits", "clrtool plot digits")):
        assert cli("rangetest", "digits", *QUICK).code == 0
    for number in (1, 2) if "merge" in line else ():
        if "mnt" in line:
            assert (
                cli("rangetest", "digits", *QUICK, "--seed-shard", f"{number}/2", "-o", f"{'ab'[number - 1]}").code == 0
            )
        elif "digits" in line:
            assert cli("rangetest", "digits", *QUICK, "--seed-shard", f"{number}/2").code == 0
        else:
            assert cli(*words, "--seed-shard", f"{number}/2").code == 0
    line = re.sub(r"/mnt/(.)/", r"\1/shards/", line)
    for name in re.findall(r"\b[ab]\.json", line):
        cli(
            "plan",
            "--base-lr",
            "0.001",
            "--max-lr",
            "0.006",
            "--iterations-per-epoch",
            "50",
            "--epochs",
            "9",
            "-o",
            name,
        )
    needs_code = "mine.yaml" in line and not line.startswith(("clrtool init", "clrtool doctor"))
    quick = ["sweep.epochs=1", "plan.epochs=4"] if line.startswith(("clrtool rangetest", "clrtool compare")) else []
    done = paste(line, *quick, *(["--allow-import", "train:*"] if needs_code else []))
    assert done.code in ((1,) if "--lint" in line else (0, 3)), done.err


WELCOME = ["clrtool rangetest digits", "clrtool init", "clrtool doctor", "clrtool guide", "clrtool --help"]


@case("cli/main.py", *WELCOME)
@pytest.mark.parametrize("line", WELCOME)
def test_what_clrtool_alone_proposes_works(cli, paste, code, line):
    assert line in cli().out
    assert paste(line, *(QUICK if "rangetest" in line else ["--quick"] if "doctor" in line else [])).code == 0


@case("cli/main.py", "clrtool doctor lists the devices.")
def test_the_command_beside_the_version_lists_devices(cli, paste):
    line = re.search(r"clrtool doctor", cli("--version").out)[0]
    assert "cpu" in paste(line, "--quick").out.lower()


@case("cli/rangetest.py", "'clrtool' 'rangetest' argument(name)", "clrtool init", "clrtool rangetest digits")
def test_the_commands_that_are_named_where_no_config_was_given_work(cli, paste, code):
    told = cli("rangetest").err.splitlines()
    lines = [COMMAND.search(line)[0] for line in told if "clrtool" in line]
    assert lines == ["clrtool init", "clrtool rangetest digits"]
    assert [paste(lines[0]).code, paste(lines[1], *QUICK).code] == [0, 0]
    names = ["my net.yaml", "netz-ü.2.yml"]
    for name in [*names, "it's.yaml"]:  # which cannot name a run folder
        shutil.copy(shipped_configs()["digits"], name)
    Path("mine.yaml").unlink()
    lines = [line.strip() for line in cli("rangetest").err.splitlines() if ".y" in line]
    assert len(lines) == len(names)
    for line in lines:
        assert paste(line, *QUICK).code == 0


@pytest.mark.short(3)
@case("cli/outcome.py", "'clrtool' *step")
@pytest.mark.parametrize("folder", ODD)
def test_what_comes_next_after_a_range_test_works_in_a_folder_of_any_name(cli, paste, digits_run, folder):
    shutil.copytree(digits_run, f"./{folder}")
    told = cli("rangetest", "digits", *[word for word in QUICK if word != "-q"], "-o", folder).err
    table, program, report = [line.strip() for line in told.partition("next: ")[2].splitlines()]
    assert "base_lr" in paste(table).out
    assert "torch" in paste(program).out
    assert paste(report).code == 0
    (written,) = Path(f"./{folder}").glob("report.html")
    assert "<h1" in written.read_text()


@pytest.mark.short(3)
@case("report/pages/html_report.py", "'clrtool' 'plan' argument(source)")
@pytest.mark.parametrize("folder", ODD)
def test_what_a_report_says_to_type_works(cli, paste, digits_run, folder):
    import html

    shutil.copytree(digits_run, f"./{folder}")
    assert cli("plot", f"./{folder}", "-o", "a.html").code == 0
    said = re.search(r"<code>(clrtool.*?)</code>", Path("a.html").read_text(), re.DOTALL)[1]
    table, program = html.unescape(said).splitlines()
    assert "base_lr" in paste(table).out
    assert paste(program).code == 0
    assert "torch" in Path("schedule.py").read_text()


@pytest.mark.short(1)
@case("cli/drift.py", "'clrtool' 'rangetest' argument(config) *others '--fresh' '--write' check")
@pytest.mark.parametrize("name", ODD)
def test_what_fixes_a_stale_file_does(cli, paste, name):
    Path(f"./{name}.yaml").write_text("data: {name: digits}\nmodel: {name: mlp, args: {activation: relu}}\n")
    quick, options = [word for word in QUICK if "=" in word], [word for word in QUICK if "=" not in word]
    words = [
        f"--write=./{name}.json",
        "-o",
        f"./{name}",
        *options,
        "--",
        f"{name}.yaml",
        "model.args.hidden=[64, 32]",
        *quick,
    ]
    assert cli("rangetest", *words).code == 0
    words = [*words, "data.batch_size=64"]
    words[0] = words[0].replace("--write", "--check")
    stale = cli("rangetest", *words)
    assert stale.code == 1
    assert paste(after("to fix it: ", stale.err)).code == 0
    assert cli("rangetest", *words).code == 0


@pytest.mark.short(6)
@pytest.mark.parametrize("kind", ["a folder", "a link to nothing", "a pipe", "other JSON", "damaged", "newer"])
@pytest.mark.parametrize("option", ["--write", "--check"])
def test_a_file_that_cannot_be_one_is_refused_before_anything_is_trained(cli, kind, option):
    file = Path("kept.json")
    assert cli("rangetest", "digits", *QUICK, "--write", file).code == 0
    whole = file.read_text()
    file.unlink()
    {
        "a folder": file.mkdir,
        "a link to nothing": lambda: file.symlink_to("nowhere"),
        "a pipe": lambda: os.mkfifo(file),
        "other JSON": lambda: file.write_text('{"schema_version": 1}'),
        "damaged": lambda: file.write_text(whole.replace("0", "1", 1)),
        "newer": lambda: file.write_text(json.dumps(json.loads(whole) | {"schema_version": 99})),
    }[kind]()
    refused = cli("rangetest", "digits", *QUICK, "-o", "other", option, file)
    assert (refused.code, Path("other").exists()) == (2, False)
    assert "kept.json" in refused.err
    if kind == "damaged":
        assert "move it away and measure again" in refused.err
        file.rename("away")
        assert cli("rangetest", "digits", *QUICK, "--fresh", "-o", "other", "--write", file).code == 0


@pytest.mark.parametrize("words", [["--check", "none.json"], ["data.batch_size=64", "--check", "kept.json"]])
def test_a_check_that_fails_before_it_trains_is_one_json_object_too(cli, words):
    assert cli("rangetest", "digits", *QUICK, "--write", "kept.json").code == 0
    done = cli("rangetest", "digits", *QUICK, *words, "--json")
    told = json.loads(done.out)
    assert (done.code, told["status"], told["code"]) == (1, "stale", 1)


@pytest.mark.short(1)
@case("cli/run/executors.py", "'clrtool' 'merge' argument(share.run) *passed_on(context, without) *place")
@pytest.mark.parametrize("place", [".", "a place/with it's"])
def test_what_merges_finished_shards_does_so_with_the_code_that_they_ran(cli, paste, code, place):
    Path(place).mkdir(parents=True, exist_ok=True)
    if place != ".":
        Path("train.py").rename(Path(place) / "train.py")
    config = Path(place) / "mine.yaml"
    cli("init", config, "--model", "train:Net", "--data", "train:get_data")
    quick = [word for word in QUICK if word != "-q"]
    for number in (1, 2):
        done = cli(
            "rangetest", config, *quick, "--allow-import", "train:*", "--seed-shard", f"{number}/2", "-o", "-a b"
        )
        assert done.code == 0, done.err
    merged = paste(after("when all are: ", done.err))
    assert merged.code in (0, 3), merged.err
    assert (Path("-a b") / "result.json").is_file()


@case("cli/rangetest.py", "clrtool merge first")
@case("cli/options.py", "clrtool merge.")
def test_a_file_is_kept_of_shards_after_they_are_merged(cli, paste):
    words = ["rangetest", "digits", *QUICK]
    for number in (1, 2):
        assert cli(*words, "--seed-shard", f"{number}/2").code == 0
    refused = cli(*words, "--seed-shard", "2/2", "--write", "kept.json")
    assert refused.code == 2
    assert "run clrtool merge first" in refused.err
    assert paste("clrtool merge runs/digits").code == 0
    assert cli(*words, "--write", "kept.json").code == 0
    assert Path("kept.json").is_file()


COMPARED = ["--epochs", "1", "--seeds", "2", "--bounds", "0.01,0.2", "--policies", "fixed,triangular2"]


@case("cli/compare.py", "'clrtool' 'plan' argument(spec.folder / COMPARISON.result)")
@pytest.mark.parametrize("folder", ["my runs", "-it's"])
def test_the_plan_of_the_best_policy_is_shown_by_what_a_comparison_says(cli, paste, folder):
    told = cli("compare", "digits", *COMPARED, "-o", folder).err
    best = re.search(r"next, for the plan of (\w+): ", told)
    assert f"policy     {best[1]}" in (shown := paste(after(best[0], told)).out) or best[1] in shown


@case("cli/compare.py", "clrtool rangetest CONFIG --fresh measures them again.")
def test_bounds_that_were_measured_on_other_data_are_measured_again_by_what_is_said(cli, paste):
    def write(seed):
        draw = np.random.default_rng(seed)
        np.savez("a.npz", x_train=draw.normal(size=(200, 4)).astype("f4"), y_train=draw.integers(0, 2, 200),
                 x_test=draw.normal(size=(100, 4)).astype("f4"), y_test=draw.integers(0, 2, 100))  # fmt: skip

    write(0)
    Path("mine.yaml").write_text("data: {name: npz, args: {path: a.npz}}\nmodel: {name: mlp}\n")
    ends = ["--epochs", "1", "--seeds", "2", "--policies", "fixed,triangular2", "-q"]
    assert cli("rangetest", "mine.yaml").code in (0, 3)
    write(1)
    if json.loads(Path("runs/mine/result.json").read_text())["bounds"]["max_lr"] is None:
        pytest.skip("labels without a rule gave no bounds")
    warned = cli("compare", "mine.yaml", *ends)
    line = re.search(r"clrtool rangetest CONFIG --fresh", warned.out.replace("\n", " "))
    assert line, warned.out
    assert paste(line[0].replace("CONFIG", "mine.yaml")).code in (0, 3)
    assert "different data" not in cli("compare", "mine.yaml", *ends, "--fresh").out


@pytest.mark.short(1)
@pytest.mark.parametrize("epochs", ["3.0159", "2.5", "7.9432"])
def test_the_length_that_a_comparison_names_for_a_longer_plan_is_enough(cli, epochs):
    ends = ["--base-lr", "0.01", "--max-lr", "0.1", "--iterations-per-epoch", "44"]
    assert cli("plan", *ends, "--epochs", epochs, "--policy", "one_cycle", "-o", "long.json").code == 0
    words = ["compare", "digits", "--policies", "fixed,long.json", "--bounds", "0.01,0.1", "--seeds", "1", "-q"]
    refused = cli(*words, "--epochs", "1")
    assert refused.code == 2
    assert cli(*words, *re.search(r"--epochs [\d.]+", refused.err)[0].split()).code in (0, 3)


@case("cli/outcome.py", "clrtool guide troubleshooting")
def test_an_inconclusive_test_names_the_page_with_an_entry_for_its_advice(cli, paste):
    done = cli("rangetest", "digits", "sweep.start_lr=1e-9", "sweep.end_lr=1e-8", "sweep.epochs=1")
    assert done.code == 3
    line = after("next: ", done.err).partition(",")[0]
    shown = " ".join(paste(line).out.split())
    advice = json.loads(Path("runs/digits/result.json").read_text())["bounds"]["advice"]
    assert all(each in shown for each in advice)


@case("cli/guide.py", "clrtool guide TOPIC", "clrtool guide \\2")
@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_and_every_page_that_one_links_to_is_shown(cli, paste, topic):
    assert "Read one: clrtool guide TOPIC" in cli("guide").out
    assert paste(f"clrtool guide {topic}").out == page(topic)
    assert {*re.findall(r"\]\(([\w-]+)\.md(?:#[\w-]*)?\)", page(topic))} <= {*TOPICS, "changelog"}


@case("cli/init.py", "clrtool rangetest digits", "clrtool init custom", "clrtool init --list")
def test_what_init_names_where_it_finds_nothing_works(cli, paste):
    told = cli("init").err
    lines = COMMAND.findall(told)
    assert lines == ["clrtool rangetest digits", "clrtool init custom", "clrtool init --list"]
    assert [paste(lines[0], *QUICK).code, paste(lines[1]).code] == [0, 0]
    assert "custom" in paste(lines[2]).out


@case("cli/init.py", "clrtool init NAME.yaml", "clrtool init {} DIR/{}.yaml", "argument(target.name)")
def test_a_name_that_is_taken_is_told_with_one_that_is_not(cli, paste, code):
    Path("mine.yaml").write_text("mine")
    line = after("another name: ", cli("init").err)
    assert paste(line.replace("NAME", "other")).code == 0
    assert cli("init", "custom").code == 0
    line = after("another folder: ", cli("init", "custom").err)
    assert paste(line.replace("DIR", "elsewhere")).code == 0
    assert Path("elsewhere/custom_factories.py").is_file()


@pytest.mark.short(1)
@case(
    "report/programs/starter.py",
    "'clrtool' 'rangetest' argument(config) *imports",
    "clrtool schema",
)
@pytest.mark.parametrize("name", ["mine", "my net", "netz-ü.2"])
def test_what_a_new_config_says_to_type_works(cli, paste, code, name):
    target = f"{name}.yaml"
    told = cli("init", "--model", "train:Net", "--data", "train:get_data", "--", target)
    assert told.code == 0, told.err
    first, second, *_ = Path(f"./{target}").read_text().splitlines()
    dry, whole = [line.strip() for line in told.err.partition("next: ")[2].splitlines()]
    one_run = second.partition("A value for one run: ")[2]
    assert one_run.endswith("plan.epochs=90")
    quick = [*QUICK, "-o", "run", "--fresh"]
    assert "iterations" in paste(dry).out
    assert not Path("run").exists()
    for line in (whole, first.partition(": ")[2], one_run):
        assert paste(line, *quick).code in (0, 3), line
    assert load_config(Path("run/config.yaml")).plan.epochs == 90
    assert json.loads(paste("clrtool schema").out)["properties"]


@pytest.mark.parametrize("name", ["it's.yaml", "$HOME.yaml", "a=b.yaml", "two::dots.yaml", "a\x1b[31mb.yaml"])
@pytest.mark.parametrize("how", [["custom"], ["--model", "mlp", "--data", "digits"]])
def test_a_config_whose_run_has_no_folder_to_go_to_is_not_begun(cli, how, name):
    refused = cli("init", *how[:1], name) if how == ["custom"] else cli("init", name, *how)
    assert (refused.code, "give the config another name" in refused.err) == (2, True)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", shipped_configs())
def test_the_copy_of_a_shipped_config_names_itself_in_its_commands(cli, tmp_path, name):
    assert cli("init", name, "my copy.yaml").code == 0
    text = Path("my copy.yaml").read_text()
    commands = re.findall(r"clrtool rangetest .*", text)
    for line in commands:
        _, _, config, *others = shlex.split(line.strip(" .;"))
        assert config == "my copy.yaml"
        needed = json.loads(cli("doctor", config, "--quick", "--json").out)["config"]["allow_import"]
        assert set(needed) <= {*others} or "data.args.path=book.txt" in others
    assert bool(commands) is bool(load_config(Path("my copy.yaml")).factories()) or name == "text"


@case("cli/plan_asked.py", "clrtool plot overlays several")
def test_several_plans_are_overlaid_by_the_command_that_is_named(cli, paste):
    for name in ("a", "b"):
        assert (
            cli("plan", "--base-lr", "0.1", "--max-lr", "0.2", "--iterations-per-epoch", "9", "-o", f"{name}.json").code
            == 0
        )
    assert "clrtool plot overlays several" in cli("plan", "a.json", "b.json").err
    assert paste("clrtool plot a.json b.json -o both.svg").code == 0


@case("core/results/candidates.py", "clrtool plan FILE group=1 -o group.json")
def test_the_plan_of_a_parameter_group_is_made_by_what_a_comparison_says(cli, paste):
    cli("plan", "--from", "torch:StepLR", "base_lr=[0.1, 0.01]", "step_size=3", "--iterations", "9", "-o", "all.json")
    compared = ("compare", "digits", "--bounds", "0.01,0.1", "--epochs", "3", "--seeds", "1", "--json", "--policies")
    line = after("compare that of a group: ", json.loads(cli(*compared, "all.json,fixed:0.1").out)["message"])
    assert paste(line.replace("FILE", "all.json")).code == 0
    assert cli(*compared, "group.json,fixed:0.1").code in (0, 3)


@case("engine/resume/sharding.py", "clrtool rangetest --seed-shard K/N makes one")
def test_what_is_said_to_make_a_shard_makes_one(cli, paste):
    Path("runs/digits/shards/1-of-1").mkdir(parents=True)
    line = re.search(r"clrtool rangetest --seed-shard K/N", cli("merge", "runs/digits").err)[0]
    assert paste(line.replace("K/N", "1/1"), "digits", *QUICK).code == 0
    assert cli("merge", "runs/digits").code == 0


@case("engine/training/scheduler.py", "clrtool plan RUN --epochs N")
def test_a_longer_plan_is_made_by_what_a_scheduler_says_at_its_end(paste, digits_run):
    import torch

    plan = clrtool.read_run(digits_run).plan
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = clrtool.PlanScheduler(optimizer, plan)
    for _ in range(plan.iterations):
        optimizer.step()
        scheduler.step()
    with pytest.warns(UserWarning, match="clrtool plan RUN --epochs N") as told:
        scheduler.step()
    line = re.search(r"clrtool plan RUN --epochs N", str(told[0].message))[0]
    line = line.replace("RUN", shlex.quote(str(digits_run))).replace("N", str(int(2 * plan.epochs)))
    longer = json.loads(paste(line, "--format", "json").out)["plan"]
    assert longer["iterations"] > plan.iterations


@case("report/records/run.py", "clrtool rangetest makes one")
@case("report/records/plan_file.py", "clrtool rangetest --write has made")
def test_what_is_said_to_make_a_run_and_a_file_makes_them(cli, paste):
    assert "clrtool rangetest makes one" in cli("plan", "digits").err
    assert paste("clrtool rangetest digits --write kept.json", *QUICK).code == 0
    assert cli("plan", "digits").code == 0
    shutil.copy("runs/digits/result.json", "other.json")
    refused = cli("rangetest", "digits", *QUICK, "--check", "other.json")
    assert "is no file that clrtool rangetest --write has made" in refused.err
    assert cli("rangetest", "digits", *QUICK, "--check", "kept.json").code == 0


@case("report/records/comparison_file.py", "clrtool compare")
def test_a_folder_that_no_comparison_wrote_is_left_alone(cli, digits_run):
    shutil.copytree(digits_run, "a run")
    Path("a run/compare.json").write_text("mine")
    refused = cli("compare", "digits", *COMPARED, "-o", "a run", "--fresh")
    assert (refused.code, "that clrtool compare did not write" in refused.err) == (2, True)
    other = shlex.split(after("give ", refused.err).partition("with ")[2])
    assert other == ["-o", "DIR"]
    assert cli("compare", "digits", *COMPARED, *other).code in (0, 3)


ALLOWED = ["--allow-import", "train:*"]


def other_code():
    Path("train.py").write_text(Path("train.py").read_text().replace("nn.Linear(6, 3)", "nn.Linear(6, 3, bias=False)"))


# What a run is refused for: what was done to it, the words of the second command, and what the message names to add.
REFUSED = {
    "another config": (None, ["data.batch_size=64"], ["--fresh"]),
    "another config, elsewhere": (None, ["data.batch_size=64"], ["-o", "DIR"]),
    "without --deterministic": (None, ["--deterministic"], ["--fresh"]),
    "other code": (other_code, [], ["--fresh"]),
    "damaged result": (lambda: Path("runs/mine/result.json").write_text("{"), [], ["--fresh"]),
    "changed curve": (lambda: Path("runs/mine/curve.csv").write_text("seed"), [], ["--fresh"]),
    "damaged config": (lambda: Path("runs/mine/config.yaml").write_text(HEADER + "news: 1\n"), [], ["--fresh"]),
}


@pytest.mark.short(4)
@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_run_is_mended_by_the_option_that_the_message_names(cli, code, what):
    change, words, mend = REFUSED[what]
    cli("init", "--model", "train:Net", "--data", "train:get_data")
    first = ["rangetest", "mine.yaml", *QUICK, *ALLOWED]
    assert cli(*first).code in (0, 3)
    if change is not None:
        change()
    refused = cli(*first, *words)
    assert refused.code == 2
    assert " ".join(mend) in refused.err
    assert cli(*first, *words, *mend).code in (0, 3)


def test_the_import_that_a_refusal_names_is_the_one_that_is_needed(cli, code):
    cli("init", "--model", "train:Net", "--data", "train:get_data")
    refused = cli("rangetest", "mine.yaml", *QUICK)
    option = re.search(r"add (--allow-import '.*?') if you trust it", refused.err)[1]
    assert cli("rangetest", "mine.yaml", *QUICK, *shlex.split(option)).code in (0, 3)
    told = cli("doctor", "mine.yaml", "--quick", "--plain").out
    assert option in told


@pytest.mark.short(1)
@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_interrupted_test_goes_on_by_the_command_that_is_named(zygote, tmp_path, fresh, form):
    import signal

    words = ["rangetest", "digits", "plan.epochs=3000", "-o", "long"]
    Path("long").mkdir()

    def interrupted(*more):
        run = zygote.start([*words, *form, *more], cwd=tmp_path)
        wait_for((Path("long") / "curve.csv").exists)
        run.kill(signal.SIGINT)
        assert run.wait() == 130, run.err
        return run.out if form else run.err

    told = interrupted(*fresh)
    assert ("without --fresh" in told) is bool(fresh)
    assert "same command" in told
    run = zygote.start(words, cwd=tmp_path)
    told = run.follow_errors()
    line = next(line for line in iter(told.readline, "") if "resumed" in line or "starting over" in line)
    run.kill(signal.SIGINT)
    run.wait()
    assert "resumed" in line


@case(
    "cli/plan_batch.py",
    "'clrtool' 'rangetest' argument(place / 'config.yaml') *vary",
)
@case("cli/vary.py", "'clrtool' 'plan' argument(spec.folder)", "clrtool compare trains with several plans")
@case("report/records/vary_file.py", "clrtool rangetest --vary")  # a name in a sentence, as the last of those above
def test_the_batch_sizes_that_a_plan_asks_for_are_measured_and_planned_by_the_commands_that_are_named(cli, paste):
    assert cli("rangetest", "digits", *QUICK, "-o", "my run").code in (0, 3)
    refused = cli("plan", "my run", "--batch-size", "512")
    assert refused.code == 2
    found = re.search(r"clrtool rangetest .*-vary'", refused.err)
    measured = paste(found[0])
    assert measured.code == 0, measured.err
    assert paste(after("next: ", measured.err)).code == 0
    assert cli("plan", "my run", "--batch-size", "512").code == 0


@case("cli/plan_batch.py", "*vary")
def test_batch_sizes_of_a_model_in_code_are_measured_by_the_first_command_with_what_is_named(cli, paste, code):
    Path("place").mkdir()
    Path("train.py").rename("place/train.py")
    cli("init", "place/mine.yaml", "--model", "train:Net", "--data", "train:get_data")
    first = shell_command("clrtool", "rangetest", "place/mine.yaml", *QUICK, "--allow-import", "train:*")
    assert paste(first).code in (0, 3)
    refused = cli("plan", "mine", "--batch-size", "16").err
    assert "train:" not in refused, "what a folder says is code is not printed for a person to paste"
    more = re.search(r"the command that measured it, with (.*) measures them", refused)[1]
    assert paste(f"{first} {more}").code in (0, 3)
    assert Path("runs/mine-vary/vary.json").is_file()


@pytest.mark.short(1)
@pytest.mark.parametrize(("size", "sizes"), [(1, "1,2,4"), (64, "32,64,128"), (128, "64,128")])
def test_no_batch_size_is_proposed_twice_or_larger_than_the_data(cli, paste, size, sizes):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 4)).astype("f4")
    np.savez(
        "a.npz",
        x_train=x[:150],
        y_train=(x[:150, 0] > 0).astype(int),
        x_test=x[150:],
        y_test=(x[150:, 0] > 0).astype(int),
    )
    Path("mine.yaml").write_text("data: {name: npz, args: {path: a.npz}}\nmodel: {name: mlp}\n")
    assert cli("rangetest", "mine.yaml", *QUICK, f"data.batch_size={size}").code in (0, 3)
    line = re.search(r"clrtool rangetest .*?(?= measures)", cli("plan", "mine", "--batch-size", "16").err)[0]
    assert f"data.batch_size={sizes} " in line
    assert paste(line).code in (0, 3)
