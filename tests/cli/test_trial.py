"""What is printed in the words of another system is run in its package first, in a process of its own."""

import importlib.util

import pytest

from clrtool.cli import trial
from clrtool.cli.trial import run_printed
from clrtool.core.planning.make import make_plan
from clrtool.errors import ConfigError
from clrtool.report.programs.program import to_code

COSINE = ["--policy", "cosine", "--epochs", "9", "--warmup-epochs", "1"]
NUMBERS = ["--base-lr", "0.001", "--max-lr", "0.006", "--iterations-per-epoch", "40"]
PLAN = make_plan(0.001, 0.006, 40, epochs=9, policy="cosine", warmup_epochs=1)
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.mark.short(0)
@needs_timm
def test_what_a_package_runs_as_planned_is_printed_without_a_word(cli):
    printed = cli("plan", *NUMBERS, *COSINE, "--format", "timm")
    assert printed.code == 0
    assert printed.out == to_code(PLAN, "timm")
    assert "note" not in printed.err


@pytest.mark.short(1)
@needs_timm
@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("lr_min=0.001", "lr_min=0.0011", "timm has the learning rate .* at iteration [0-9]+, where cosine has"),
        ("warmup_t=40", "warmup_t=39", "at iteration 1, where cosine has"),
        ("lr_min=0.001", "lr_least=0.001", "timm refuses what cosine would be there: TypeError"),
        ("lr=0.006", "lr=0.005", "at iteration 1,"),
    ],
)
def test_what_a_package_refuses_or_runs_otherwise_is_not_printed(right, wrong, told):
    text = to_code(PLAN, "timm")
    assert right in text
    with pytest.raises(ConfigError, match=told):
        run_printed(PLAN, "timm", text.replace(right, wrong))


def test_where_a_package_is_not_installed_that_is_said(cli, monkeypatch):
    monkeypatch.setattr(trial, "find_spec", lambda name: None)
    printed = cli("plan", *NUMBERS, *COSINE, "--format", "mmengine")
    assert printed.code == 0
    assert "note: read back, but not run in mmengine: it is not installed here" in printed.err


def test_a_package_that_cannot_be_imported_is_no_reason_to_print_nothing(cli, monkeypatch, tmp_path):
    (tmp_path / "ignite").mkdir()
    (tmp_path / "ignite" / "__init__.py").write_text("print('hello')\nraise ImportError('it wants another torch')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    printed = cli("plan", *NUMBERS, *COSINE, "--format", "ignite")
    assert printed.code == 0
    assert "not run in ignite: it cannot be imported here: ImportError: it wants another torch" in printed.err


@pytest.mark.parametrize("form", ["ignite", "mmengine"])
def test_a_momentum_that_a_package_moves_otherwise_is_not_printed(form):
    if importlib.util.find_spec(form) is None:
        pytest.skip(f"{form} is not installed")
    plan = make_plan(0.001, 0.006, 40, epochs=9, momentum=(0.85, 0.95))
    text = to_code(plan, form)
    assert run_printed(plan, form, text) is None
    before, _, after = text.rpartition("0.85")
    with pytest.raises(ConfigError, match=f"{form} has the momentum .* at iteration .*, where triangular2 has"):
        run_printed(plan, form, f"{before}0.86{after}")
