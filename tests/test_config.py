"""The config: numbers mean numbers, every fault is named at its place, the schema says the same."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from clrtool.config.file import find_config, load_config
from clrtool.config.json_schema import MODELINE, SCHEMA_FILE, json_schema
from clrtool.config.schema import PolicyName, RangeTestConfig
from clrtool.config.shipped import shipped_configs
from clrtool.config.strict_yaml import read_yaml
from clrtool.core.planning.make import make_plan
from clrtool.core.planning.policies import POLICIES
from clrtool.errors import ConfigError

jsonschema = pytest.importorskip("jsonschema")

SMALL = "model: {name: mlp}\ndata: {name: digits}\n"


def load(tmp_path, text, *overrides):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    return load_config(file, overrides)


def faults(tmp_path, text, *overrides):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text, *overrides)
    return [fault.replace(f"{tmp_path}/", "") for fault in error.value.faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("3E-4", 0.0003), ("1e3", 1000.0), ("1.0e-3", 0.001), (".5", 0.5), ("1.", 1.0), ("+2", 2), ("-7", -7),
        ("0", 0), ("0.0", 0.0), ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'1e-3'", "1e-3"),
        ('"yes"', "yes"), ("relu", "relu"), ("1e", "1e"), ("a:b", "a:b"), ("0.5.1", "0.5.1"), ("e3", "e3"), ("-", "-"),
    ],
)  # fmt: skip
def test_a_plain_scalar_is_what_yaml_1_2_says(text, value):
    document = read_yaml(f"[{text}]" if text and text != "-" else f"a: {text!r}" if text else "a:", "a")
    found = next(iter(document.value.values())) if isinstance(document.value, dict) else document.value[0]
    assert (found, type(found)) == (value, type(value))
    assert not document.faults


@pytest.mark.parametrize(
    "text",
    ["010", "007.5", "yes", "No", "ON", "off", "12:30", "1:2:3", "0x1F", "0o17", "0b1", "1_000", "2024-01-01", ".inf", "-.NaN", "nan", "1e400", "9" * 60],
)  # fmt: skip
def test_what_readers_of_yaml_differ_on_is_a_fault_and_never_a_guess(tmp_path, text):
    (fault,) = faults(tmp_path, SMALL + f"sweep:\n  end_lr: {text}\n")
    assert fault.startswith("a.yaml:4:11: sweep.end_lr = ")
    assert "quote it to mean the text" in fault


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_is_read_as_itself(value):
    assert read_yaml(f"a: {value!r}", "a").value["a"] == value


@given(st.integers(-(10**30), 10**30))
def test_every_integer_is_read_as_itself(value):
    assert read_yaml(f"a: {value}", "a").value["a"] == value


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_and_never_crashes(text):
    try:
        read_yaml(text, "a")
    except ConfigError as error:
        assert str(error).startswith("a")


def test_every_fault_of_a_file_is_named_at_once_in_reading_order(tmp_path):
    found = faults(
        tmp_path,
        """\
sead: 1
model: {name: mlp, factory: "a:b"}
data: {name: digits, batch_size: "32"}
optimizer: {name: SGD, args: {lr: 0.1}}
precision: fp33
sweep:
  start_lr: -1e-3
  end_lr: off
  seeds: 2.5
  sweeps: 1
  seeds: 4
plan: 3
""",
        "loss.nam=x",
        "plan",
    )
    expected = [
        "a.yaml:1:1: unknown key 'sead'; did you mean 'seed'?",
        "a.yaml:2:1: model needs exactly one of 'name' and 'factory'",
        "a.yaml:3:34: data.batch_size = '32' must be a whole number; remove the quotes: 32",
        "a.yaml:4:30: optimizer.args = {'lr': 0.1} must not hold 'lr': the sweep sets it",
        "a.yaml:5:12: precision = 'fp33' must be 'fp32', 'tf32', 'bf16' or 'fp16'; did you mean 'fp32'?",
        "a.yaml:7:13: sweep.start_lr = -0.001 must be above 0",
        "a.yaml:8:11: sweep.end_lr = off is true or false to some readers",
        "a.yaml:9:10: sweep.seeds = 2.5 must be a whole number",
        "a.yaml:10:3: unknown key 'sweeps' in sweep; did you mean 'seeds'?",
        "a.yaml:11:3: duplicate key 'seeds' (first at a.yaml:9:3)",
        "a.yaml:12:7: plan = 3 must be a mapping",
        "command line, 'loss.nam=x': unknown key 'nam' in loss; did you mean 'name'?",
        "command line, 'plan': an override is KEY=VALUE",
    ]
    assert len(found) == len(expected)
    for fault, beginning in zip(found, expected, strict=True):
        assert fault.startswith(beginning)


def test_a_rule_between_two_keys_is_checked_beside_other_faults(tmp_path):
    found = faults(
        tmp_path,
        SMALL + "sweep: {start_lr: 0.1, end_lr: 0.01, seeds: 2.5}\nplan: {epochs: 2, stepsize_epochs: 2, policy: x}",
    )
    assert [fault.split()[1] for fault in found] == [
        "sweep.end_lr",
        "sweep.seeds",
        "plan.stepsize_epochs",
        "plan.policy",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "a.yaml:1:9: not valid YAML"),
        ("a: &x 1\nb: *x", "a.yaml:1:4: the anchor 'x' is refused"),
        (
            "a: !!python/object:os.system x",
            "a.yaml:1:4: the tag 'tag:yaml.org,2002:python/object:os.system' is refused",
        ),
        ("[" * 100_000, "a.yaml:1:33: nested more than 32 levels deep"),
        ("a: " + "x" * 100_000, "a.yaml: a config of 100,003 characters is refused"),
        ("- 1", "a.yaml:1:1: a config is a mapping"),
        ("? [a, b]\n: 1", "a.yaml:1:3: a key must be a name"),
    ],
)
def test_what_is_no_config_is_refused_with_its_place(tmp_path, text, message):
    assert any(fault.startswith(message) for fault in faults(tmp_path, text))


def test_an_empty_file_lacks_model_and_data(tmp_path):
    assert faults(tmp_path, "") == ["a.yaml:1:1: model is missing", "a.yaml:1:1: data is missing"]


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_config_errors(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    for path in (file, tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("sweep.end_lr=0", "must be above 0"),
        ("sweep.end_lr=1e400", "is not a finite number"),
        ("sweep.end_lr=2e4", "must be at most 10000"),
        ("sweep.end_lr=true", "must be a number"),
        ("sweep.end_lr=autom", "did you mean 'auto'?"),
        ("sweep.evaluations=1", "must be at least 2"),
        ("sweep.seeds=0", "must be at least 1"),
        ("sweep={start_lr: 1, end_lr: 0.1}", "must be at least 1.5 times sweep.start_lr = 1"),
        ("seed=-1", "must be at least 0"),
        ("data.batch_size=0", "must be at least 1"),
        ("plan={epochs: 4, stepsize_epochs: 3}", "at most half of plan.epochs"),
        ("plan.policy=triangle", "did you mean 'triangular'?"),
        ("model.args=3", "must be a mapping of keys and values"),
        ("model.factory=os.system", "must look like 'pkg.module:callable'"),
        ("model.name.x=1", "model.name holds one value, not keys"),
        ("metric=top3", "is no metric; did you mean 'top5'?"),
        (".a=1", "an override is KEY=VALUE"),
    ],
)
def test_a_bad_override_names_itself_and_its_rule(tmp_path, override, rule):
    fault = faults(tmp_path, SMALL, override)[0]
    assert fault.startswith(f"command line, {override!r}: ")
    assert rule in fault


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    config = load(
        tmp_path, SMALL + "sweep: {epochs: 2, seeds: 5}", "sweep.seeds=1", "model.args.hidden=[8, 9]", "seed=7"
    )
    assert (config.sweep.epochs, config.sweep.seeds, config.sweep.evaluations, config.seed) == (2, 1, "auto", 7)
    assert config.model.args == {"hidden": [8, 9]}


GROUPED = SMALL + "optimizer: {name: SGD, groups: [{params: ['*.bias']}, {params: ['0.*'], lr_ratio: 2}]}\n"


def test_an_override_reaches_into_a_list_by_its_place(tmp_path):
    config = load(tmp_path, GROUPED, "optimizer.groups.1.lr_ratio=0.5", "optimizer.groups.0.args.weight_decay=0")
    assert [each.lr_ratio for each in config.optimizer.groups] == [1, 0.5]
    assert config.optimizer.groups[0].args == {"weight_decay": 0}


@pytest.mark.parametrize("place", ["2", "-1", "x"])
def test_a_place_that_a_list_does_not_have_is_refused_with_its_length(tmp_path, place):
    fault = faults(tmp_path, GROUPED, f"optimizer.groups.{place}.lr_ratio=1")[0]
    assert f"optimizer.groups is a list of 2, counted from 0, and {place} is not in it" in fault


def test_a_value_of_a_list_that_breaks_its_rule_names_the_override(tmp_path):
    fault = faults(tmp_path, GROUPED, "optimizer.groups.1.lr_ratio=many")[0]
    assert fault.startswith("command line, 'optimizer.groups.1.lr_ratio=many': ")


def test_an_override_is_split_at_its_first_equals_sign(tmp_path):
    assert load(tmp_path, SMALL, "data.args.path=a=b").data.args == {"path": "a=b"}


def test_the_tree_is_frozen(tmp_path):
    config = load(tmp_path, SMALL)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_a_saved_config_is_loadable_complete_and_equal(tmp_path):
    config = load(tmp_path, SMALL + "sweep: {start_lr: 1e-7, end_lr: 3e-1}")
    saved = load(tmp_path, config.to_yaml())
    assert saved == config
    assert saved.sha256() == config.sha256()
    assert "evaluations: auto" in config.to_yaml()


def test_the_hash_follows_the_values_and_not_the_file(tmp_path):
    plain = load(tmp_path, SMALL).sha256()
    assert load(tmp_path, "# a comment\n" + SMALL + "seed: 0\n").sha256() == plain
    assert load(tmp_path, SMALL, "seed=1").sha256() != plain


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_opens_with_a_sentence_and_fits_the_schema(name):
    path = find_config(name)
    config = load_config(path)
    assert path.read_text().startswith("# ")
    jsonschema.validate(json.loads(config.model_dump_json(exclude_none=True)), json_schema())


def test_the_shipped_configs_are_those_that_the_readme_names():
    assert set(shipped_configs()) == {
        "digits", "text", "cifar10", "cifar10-full", "cifar10-sigmoid-bn", "cifar10-resnet56", "cifar10-mlp-adamw",
        "custom", "lstm", "autoencoder", "multilabel", "siamese",
    }  # fmt: skip


@pytest.mark.parametrize("name", shipped_configs())
def test_an_editor_finds_the_schema_of_a_config_and_no_fault_in_it(name):
    path = find_config(name)
    modelines = [line for line in path.read_text().splitlines() if line.startswith("# yaml-language-server:")]
    assert modelines == [MODELINE]
    beside = json.loads((path.parent / SCHEMA_FILE).read_text())
    jsonschema.Draft7Validator.check_schema(beside)
    jsonschema.validate(YAML(typ="safe").load(path), beside, jsonschema.Draft7Validator)


def test_the_schema_beside_the_configs_is_the_one_of_today(cli):
    shipped = find_config("digits").with_name(SCHEMA_FILE)
    assert shipped.read_text() == cli("schema").out, f"clrtool schema > configs/{SCHEMA_FILE}"


def test_the_schema_tells_what_every_key_means():
    for name, section in json_schema()["definitions"].items():
        keys = (section if "properties" in section else section["anyOf"][1])["properties"]
        assert section["description"].endswith(".")
        assert not [key for key, rules in keys.items() if "description" not in rules and "$ref" not in rules], name


def test_the_schema_takes_a_section_that_is_a_name_alone_where_there_is_a_default():
    good = {"model": {"name": "mlp"}, "data": {"name": "digits"}}
    jsonschema.validate(good | {"optimizer": "Adam", "loss": "mse", "metric": "loss"}, json_schema())
    for bad in ({"model": "mlp"}, {"model": {"args": {}}}, {"data": "digits"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | bad, json_schema())
        with pytest.raises(ValueError, match="validation error"):
            RangeTestConfig.model_validate(good | bad)


def test_the_schema_refuses_what_the_tree_refuses():
    good = {"model": {"name": "mlp"}, "data": {"name": "digits"}}
    jsonschema.validate(good, json_schema())
    for bad in ({"sead": 1}, {"sweep": {"epochs": 0}}, {"sweep": {"start_lr": "autom"}}, {"precision": "fp33"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | bad, json_schema())
        with pytest.raises(ValueError, match="validation error"):
            RangeTestConfig.model_validate(good | bad)


def test_an_unknown_config_name_lists_the_shipped_ones():
    with pytest.raises(
        ConfigError,
        match=r"did you mean 'digits'. Valid: autoencoder, cifar10, cifar10-full, cifar10-mlp-adamw, cifar10-resnet56, ",
    ):
        find_config("digit")


def test_a_range_test_can_be_planned_with_every_policy_but_stages_which_have_bounds_of_their_own():
    names = get_args(PolicyName)
    assert {*names, "stages"} == set(POLICIES)
    for name in names:
        assert make_plan(1.0, 2.0, 46, policy=name).policy == name
