"""Configs that somebody hostile, careless or unlucky wrote: valid, or exit 2 with one clear message, and at once.

CLRTOOL_TORTURE=1 in the environment tries 20 times as many.
"""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clrtool.config.file import MAX_OVERRIDES, load_config, run_name
from clrtool.config.schema import RangeTestConfig
from clrtool.config.shipped import shipped_configs
from clrtool.config.strict_yaml import MAX_DEPTH, MAX_VALUES
from clrtool.errors import ConfigError
from clrtool.words import printable
from tests.conftest import LONG

pytestmark = pytest.mark.long
GENERATED, MUTATED, TRAINED = (10_000, 1_000, 300) if LONG else (60, 25, 10)
SECONDS = 5
SMALL = "model: {name: mlp, args: {hidden: [4]}}\ndata: {name: digits}\n"
FAST = ["sweep.epochs=0.2", "sweep.start_lr=1e-3", "sweep.end_lr=1", "sweep.evaluations=3", "--seeds", "1", "-q"]


def fuzzed(examples):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    # the short form tries the same each time, the long one others
    return settings(max_examples=examples, derandomize=not LONG, suppress_health_check=quiet, database=None)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
# name -> (what the file holds, what the message says; None for a config that is valid)
FILES = {
    "tag": ("a: !!python/object/apply:os.system [touch pwned]", "1:4: the tag 'tag:yaml.org,2002:python/object/app"),
    "tag in a key": ("!!python/name:os.system a: 1", "the tag 'tag:yaml.org,2002:python/name:os.system' is refused"),
    "billion laughs": (LAUGHS, "a.yaml:1:4: the anchor 'a' is refused; write the value out"),
    "alias": ("a: *b", "the alias 'b' is refused"),
    "merge": (SMALL + "sweep: {<<: {seeds: 3}}", "unknown key '<<' in sweep"),
    "nested lists": ("[" * 100_000, "nested more than 32 levels deep"),
    "nested lists, closed": ("a: " + "[" * 49_000 + "]" * 49_000, "nested more than 32 levels deep"),
    "nested mappings": ("{a: " * 25_000, "nested more than 32 levels deep"),
    "nested keys": ("{" * 100_000, "nested more than 32 levels deep"),
    "nested dashes": ("- " * 50_000, "nested more than 32 levels deep"),
    "nested questions": ("? " * 50_000, "nested more than 32 levels deep"),
    "deep indentation": ("".join(f"{' ' * depth}a:\n" for depth in range(440)), "nested more than 32 levels deep"),
    "a 5 MB line": ("a: " + "x" * 5_000_000, "at most 400,000 are read"),
    "a long line": ("a: " + "x" * 100_000, "a config of 100,003 characters is refused; at most 100,000 are read"),
    "a million keys": ("".join(f"k{number}: 1\n" for number in range(10**6)), "at most 400,000 are read"),
    "thousands of keys": ("".join(f"k{number}: 1\n" for number in range(9_000)), "more than 3,000 values is refused"),
    "a long list": ("a: [" + "1," * 10**5 + "]", "at most 100,000 are read"),
    "a list of thousands": ("a: [" + "1," * 49_000 + "]", "a config of more than 3,000 values is refused"),
    "a thousand faults": (SMALL + "".join(f"k{number}: 1\n" for number in range(1_000)), "and 980 more faults"),
    "a thousand duplicates": (SMALL + "a: 1\n" * 1_000, "and 980 more faults"),
    "a thousand doubts": (SMALL + "a: [" + "010," * 1_000 + "]", "and 981 more faults"),
    "400 digits": (SMALL + f"seed: {'9' * 400}", "seed = 9999999999999999999999999999999999999... is a number of more"),
    "5,000 digits": (SMALL + f"seed: -{'9' * 5000}", "... is a number of more than 40 characters"),
    "5,000 digits of a fraction": (SMALL + f"plan: {{epochs: 0.{'1' * 5000}}}", "is a number of more than 40"),
    "5,000 digits of an exponent": (SMALL + f"plan: {{epochs: 1e{'9' * 5000}}}", "is a number of more than 40"),
    "infinite": (SMALL + "plan: {epochs: 1e999}", "plan.epochs = 1e999 is not a finite number"),
    "a long key": (SMALL + "? " + "k" * 90_000 + "\n: 1", "unknown key 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"),
    "a key too long for a line": (SMALL + "k" * 90_000 + ": 1", "not valid YAML"),
    "a long name": (SMALL + f"loss: {'x' * 90_000}", "loss = 'xxxxx"),
    "a long text": (SMALL + "precision: |\n" + "  x\n" * 20_000, "precision = 'x\\nx\\n"),
    "a long folded text": (SMALL + "precision: >\n" + "  x y\n" * 15_000, "precision = 'x y x y"),
    "a long quoted text": (SMALL + 'precision: "' + "\\n \\\n " * 15_000 + '"', "precision = "),
    "a long plain text": (SMALL + "precision: " + "x\n " * 30_000, "precision = 'x x x"),
    "a text that does not end": (SMALL + "precision: '" + "x" * 90_000, "not valid YAML"),
    "a comment": ("#" * 99_000 + "\n" + SMALL, None),
    "comments": ("#\n" * 45_000 + SMALL, None),
    "empty lines": ("\n" * 90_000 + SMALL, None),
    "documents": ("---\n" * 20_000, "a.yaml:2:1: a second document; a config is one"),
    "two documents": (SMALL + "---\n" + SMALL, "a second document; a config is one"),
    "what follows the end": (SMALL + "...\n]", "a.yaml:4:1: a second document"),
    "a directive": ("%YAML 1.1\n---\n" + SMALL + "seed: 010", "seed = 010 is octal to some readers"),
    "a tag directive": ("%TAG ! tag:x,2000:\n--- !a\n" + SMALL, "the tag 'tag:x,2000:a' is refused"),
    "an escape that is no character": (SMALL + r'precision: "\UFFFFFFFF"', "not valid YAML"),
    "half a character": (SMALL + r'model.x: "\ud800"', "the character U+D800 is refused: no file can hold it"),
    "a NUL": (SMALL + r'"\0": 1', "the character U+0000 is refused: no file can hold it"),
    "a NUL as it is": (SMALL + "a: \0", "not valid YAML"),
    "a control": (SMALL + "a: \x1b[2J", "not valid YAML"),
    "a tab": ("model:\n\tname: mlp", "not valid YAML"),
    "CRLF": (SMALL.replace("\n", "\r\n"), None),
    "CR": (SMALL.replace("\n", "\r"), None),
    "a BOM": ("\ufeff" + SMALL, None),
    "UTF-16": (SMALL.encode("utf-16"), "it is no text in UTF-8"),
    "UTF-16 without a BOM": (SMALL.encode("utf-16-le"), "not valid YAML"),
    "UTF-32": (SMALL.encode("utf-32"), "it is no text in UTF-8"),
    "Latin-1": (SMALL.encode() + b"a: \xe9", "it is no text in UTF-8"),
    "half a character as bytes": (SMALL.encode() + b"a: \xed\xa0\x80", "it is no text in UTF-8"),
    "half a text": (SMALL.encode() + b"a: \xf0\x9f\x98", "it is no text in UTF-8"),
    "a program": (bytes(range(256)) * 100, "it is no text in UTF-8"),
    "nothing": ("", "model is missing"),
    "a text": ("hello", "a config is a mapping of keys"),
    "a list as a key": ("? [a, {b: c}]\n: {d: [e]}\n" + SMALL, "a.yaml:1:3: a key must be a name"),
}  # fmt: skip


@pytest.fixture
def judged(cli, tmp_path, monkeypatch):
    """Have a config validated in its own folder; give the code and the message."""
    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def judge(content, *overrides):
        Path("a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        begin = time.process_time()  # of this process, however busy the machine is
        result = cli("doctor", "a.yaml", *overrides, "--quick")
        assert time.process_time() - begin < SECONDS
        check(result, codes=(0, 2))
        assert os.listdir() == ["a.yaml"]  # noqa: PTH208 (it is shorter)
        return result.code, result.err

    return judge


def check(result, codes):
    """One clear message, with nothing in it that is not shown."""
    assert result.code in codes, result.err
    assert "Traceback" not in result.err
    for stream in (result.out, result.err):
        assert stream == printable(stream)
    if result.code == 2:
        assert result.err.startswith("error: ")
        assert len(result.err.splitlines()) <= 21
        assert len(result.err) < 21 * 500


@pytest.mark.parametrize("name", FILES)
def test_a_config_that_no_careful_person_wrote_is_valid_or_refused_with_one_message(judged, name):
    content, message = FILES[name]
    code, shown = judged(content)
    assert code == (0 if message is None else 2), shown
    assert message is None or message in shown


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.args=" + "[" * 50_000, "nested more than 32 levels deep"),
        ("model.args={a: !!python/object:os.system x}", "the tag"),
        ("model.args={a: &a [1], b: *a}", "the anchor"),
        ("seed=" + "9" * 5000, "is a number of more than 40 characters"),
        ("a" * 90_000 + "=1", "unknown key 'aaaa"),
        (".".join("a" * 10_000) + "=1", "an override is KEY=VALUE with a dotted key"),
        ("model.args." + ".".join("a" * 29) + "=[[1]]", "nested more than 32 levels deep"),
        ("model.\x1b[2J=1", "an override is KEY=VALUE with a dotted key"),
        ("model.\udcff=1", "an override is KEY=VALUE with a dotted key"),
        ("precision=\udcff", "not valid YAML"),
        ("precision=\x1b[2J", "not valid YAML"),
        ("precision=---\n--- 1", "a second document"),
        ("x" * 100_001, "overrides of 100,000 characters in all are read"),
    ],
)
def test_an_override_is_held_to_the_same_rules(judged, override, message):
    code, shown = judged(SMALL, override)
    assert (code, message in shown) == (2, True), shown


def test_more_overrides_than_anybody_types_are_refused(judged):
    assert judged(SMALL, *["seed=1"] * MAX_OVERRIDES)[0] == 0
    assert "put them into the file" in judged(SMALL, *["seed=1"] * (MAX_OVERRIDES + 1))[1]


def test_a_config_as_large_as_is_read_can_be_saved_and_read_again(judged, tmp_path):
    deep = "[" * (MAX_DEPTH - 3) + "1" + "]" * (MAX_DEPTH - 3)
    for args in (f"[{'1, ' * (MAX_VALUES - 200)}]", f"'{'x ' * 40_000}'", deep):
        assert judged(f"model: {{name: mlp, args: {{a: {args}}}}}\ndata: {{name: digits}}") == (0, "")
    wide = f"{'[' * 27}{'1,' * 2_800}{']' * 27}"  # a line each, far from the margin
    code, shown = judged(f"model: {{name: mlp, args: {{a: {wide}}}}}\ndata: {{name: digits}}")
    assert (code, "with every default written out it is too large" in shown) == (2, True)


@pytest.mark.parametrize(
    "text", ["yes", "No", "010", "1_000", "12:30", "2024-01-01", "0x1F", "nan", ".inf", "1e400", "~", "", "\x85", "a\nb", "9" * 60],
)  # fmt: skip
def test_a_text_that_some_readers_take_for_something_else_is_saved_in_quotes(judged, text):
    content = json.dumps({"model": {"name": "mlp", "args": {"a": text, text or "b": 1}}, "data": {"name": "digits"}})
    assert judged(content) == (0, "")
    config = load_config(Path("a.yaml"))
    Path("a.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(Path("a.yaml")) == config


@pytest.mark.parametrize(
    "name",
    ["..", "...", ".hidden", "-rf", "a\nb", "a\x1b[2J", "a/b/..", "a\u202eb", "a:b", "a$b", "a*", " a", "a ", "a.", "x" * 65, "\udcff"],
)  # fmt: skip
def test_a_config_whose_name_cannot_name_a_folder_says_how_to_name_one(name):
    with pytest.raises(ConfigError, match=r"cannot name a run folder: .* give the folder with -o DIR"):
        run_name(Path("configs") / f"{name}.yaml")


@pytest.mark.parametrize("name", ["digits", "my run-2_b.v1", "日本語", "e\u0301te\u0301", "किताब", "1", "_a", "x" * 64])
def test_a_config_names_its_run_folder_in_any_language(name):
    assert run_name(Path("configs") / f"{name}.yaml") == name


HOSTILE = [
    "\x1b[2J\x1b]8;;http://x\x07", "::error file=a::b", "##[group]x", "\u202egnp", "a\u200bb", "\ud800", "\0", "[/red]",
    "[bold]", "$\\frac{1}{0}$", "../../etc/passwd", "/dev/zero", "os:system", "yes", "010", "12:30", "null", "!!python/x",
    "&a", "*a", "<<", "${HOME}", "%s%n", "{0.__class__}", "{nearest}", "a\r\nb", "x" * 5000, "9" * 5000, "1e400", ".nan", "=",
    "\x85", "\ufeff", "- a", "a: b", "#", "'", '"', "😀", "__class__", "torchvision.resnet18", "torchvision.LSUN", "auto",
]  # fmt: skip
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    32,
    128,
    2**31,
    2**63,
    10**39,
    -(2**64),
    0.5,
    1e-3,
    1e-308,
    1e308,
    1e5,
    0.1,
    True,
    False,
    None,
]
REAL = ["SGD", "Adam", "AdamW", "accuracy", "top5", "loss", "fp32", "bf16", "linear", "mlp", "convnet", "vit", "digits",
        "cross_entropy", "triangular", "one_cycle", "a:b", "channels_last", "loader", "device", {}, [], {"hidden": [4]},
        {"momentum": 0.9}, {"name": "SGD"}, {"params": ["*"], "lr_ratio": 2}, [{"params": ["*.bias"]}], ["*"]]  # fmt: skip
SECTIONS = RangeTestConfig.model_fields
PATHS = [(name,) for name in SECTIONS] + [
    (name, key) for name, field in SECTIONS.items() for key in getattr(field.annotation, "model_fields", ())
]


def is_valid(path, value):
    tree = {"model": {"name": "mlp"}, "data": {"name": "digits"}, "optimizer": {"name": "SGD"}}
    section = tree.setdefault(path[0], {}) if len(path) > 1 else tree
    section[path[-1]] = value
    try:
        return bool(RangeTestConfig.model_validate(tree))
    except ValueError:
        return False


GOOD = {path: [value for value in (*NUMBERS, *REAL) if is_valid(path, value)] for path in PATHS}
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30))
scalars = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(REAL), texts, st.integers(), st.floats(allow_nan=False))
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)), max_leaves=12
)  # fmt: skip
others = st.one_of(st.sampled_from(PATHS), st.tuples(texts), st.tuples(st.sampled_from(list(SECTIONS)), texts))


def rules(paths=PATHS):
    """A key and its value: two in three are as they may be, as far as one key can tell."""
    right = st.sampled_from([(path, value) for path in paths for value in GOOD[path]])
    return st.integers(0, 2).flatmap(
        lambda kind: right if kind else st.tuples(others if paths is PATHS else st.sampled_from(paths), values)
    )


@st.composite
def configs(draw):
    """The text of a config: a small valid one, with other values under real keys and under any others."""
    tree = {"model": {"name": "mlp"}, "data": {"name": "digits"}}
    for path, value in draw(st.lists(rules(), max_size=4)):
        section = tree.setdefault(path[0], {}) if len(path) > 1 else tree
        if isinstance(section, dict):
            section[path[-1]] = value
    if draw(st.booleans()):
        return json.dumps(tree, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in tree.items())


@st.composite
def mutations(draw):
    """The bytes of a config that comes with clrtool, a few of them changed."""
    content = draw(st.sampled_from([path.read_bytes() for path in shipped_configs().values()]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 20)))
        middle = draw(st.sampled_from([b"", content[start:end] * 2, *(each.encode("utf-8", "replace") for each in HOSTILE)])
                      | st.binary(max_size=4))  # fmt: skip
        content = content[:start] + middle + content[end:]
    return content


def is_kept(judged, content):
    """Whether a config is valid; if it is, it is the same when it is saved and read again."""
    if judged(content)[0] == 2:
        return False
    config = load_config(Path("a.yaml"))
    saved = Path("a.yaml")
    saved.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(saved) == config
    assert load_config(saved).sha256() == config.sha256()
    return True


def test_any_config_is_valid_and_kept_or_refused(judged):
    kept = []

    @fuzzed(GENERATED)
    @given(configs())
    def attempt(content):
        kept.append(is_kept(judged, content))

    attempt()
    assert len(kept) >= GENERATED
    assert 0.05 < sum(kept) / len(kept) < 0.9  # both kinds were tried


def test_a_shipped_config_with_a_few_bytes_changed_is_valid_and_kept_or_refused(judged):
    kept = []

    @fuzzed(MUTATED)
    @given(mutations())
    def attempt(content):
        kept.append(is_kept(judged, content))

    attempt()
    assert 0.05 < sum(kept) / len(kept) < 0.9


# What may take minutes without being wrong.
SLOW = {
    ("training", "compile"),
    ("data", "workers"),
    ("sweep", "seeds"),
    ("data", "samples_per_epoch"),
    ("training",),
    ("data",),
}
BRIEF = [path for path in PATHS if path not in SLOW]


def test_a_range_test_of_any_config_ends_in_a_result_or_in_one_message(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(SMALL)
    codes = []

    @fuzzed(TRAINED)
    @given(st.lists(rules(BRIEF), min_size=1, max_size=3))
    def attempt(changes):
        overrides = [f"{'.'.join(path)}={json.dumps(value)}" for path, value in changes]
        result = cli("rangetest", "a.yaml", *overrides, *FAST, "--fresh", "-o", tmp_path / "out")
        check(result, codes=(0, 2, 3, 4))
        assert {path.name for path in tmp_path.iterdir()} <= {"a.yaml", "out"}
        codes.append(result.code)

    attempt()
    assert {0, 3} & set(codes)
    assert 2 in codes


def test_a_table_that_is_no_plain_file_or_names_a_seed_for_each_row_is_refused_at_once(cli, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    rows = "".join(f"{seed},0.1,0.5\n" for seed in range(100_000))
    (tmp_path / "seeds.csv").write_text("seed,lr,acc\n" + rows)
    (tmp_path / "long.csv").write_text("lr,acc\n0.1,0.5\n" + "x" * 100_000)
    for name, message in (
        ("pipe", "plain file"),
        ("seeds.csv", "at most 1,000 are read"),
        ("long.csv", "long.csv:3: "),
    ):
        begin = time.process_time()  # of this process, however busy the machine is
        result = cli("plan", "--curve", tmp_path / name, "--iterations-per-epoch", "9")
        assert time.process_time() - begin < SECONDS
        check(result, codes=(2,))
        assert message in result.err
    check(cli("plan", "--lint", "--csv", tmp_path / "pipe"), codes=(2,))
