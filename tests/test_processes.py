"""``clrtool.range_test(..., jobs=N)``: the same numbers as in one process, and what cannot be sent to another."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import clrtool
from clrtool.errors import ConfigError
from clrtool.report.records.run import to_json

QUICK = {"method": "paper", "epochs": 6, "sweep_epochs": 1, "evaluations": 6, "deterministic": True, "progress": False}


def task():
    """A model, its optimizer, and a loader of a problem that it can learn."""
    torch.manual_seed(0)
    inputs = torch.randn(640, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, DataLoader(TensorDataset(inputs, inputs[:, :4].argmax(1)), batch_size=32, shuffle=True)


def unsendable(function):
    """A function that does the same, and that no other process can find."""

    def local(*given):
        return function(*given)

    return local


def points(test):
    """Every point with its seed, as text, for there was no training loss before the first step."""
    return [str((curve.seed, point)) for curve in test.curves for point in curve.points()]


def measured(test):
    """All that was found; a deterministic test leaves out the seconds that it took."""
    return to_json(test.record), points(test)


@pytest.mark.short(0)
@pytest.mark.parametrize("seeds", [3, "auto"])
def test_several_processes_measure_the_same_to_the_last_bit(seeds):
    model, optimizer, loader = task()
    alone, shared = (
        clrtool.range_test(model, optimizer, loader, loader, seeds=seeds, jobs=jobs, **QUICK) for jobs in (1, 2)
    )
    assert len(alone.curves) >= 2
    assert measured(shared) == measured(alone)


def test_what_is_measured_elsewhere_is_the_same_and_told_once_it_is_known_and_the_program_is_left_as_it_was():
    model, optimizer, loader = task()
    before, drawn, told = [each.clone() for each in model.parameters()], torch.get_rng_state(), []
    test = clrtool.range_test(
        model, optimizer, loader, loader, seeds=2, jobs=5, on_point=lambda *point: told.append(str(point)), **QUICK
    )
    assert told == points(test)
    assert measured(test) == measured(clrtool.range_test(model, optimizer, loader, loader, seeds=2, **QUICK))
    assert all(map(torch.equal, model.parameters(), before))
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"model": lambda: nn.Linear(8, 4), "optimizer": lambda model: torch.optim.SGD(model.parameters(), 0.1)}, "model"),
        ({"optimizer": lambda model: torch.optim.SGD(model.parameters(), 0.1)}, "optimizer"),
        ({"loss": unsendable(nn.functional.cross_entropy)}, "loss, step or measure"),
        ({"heldout_loader": DataLoader(task()[2].dataset, 32, collate_fn=unsendable(default_collate))}, "heldout_loader"),
    ],
    ids=["model", "optimizer", "loss", "loader"],
)  # fmt: skip
def test_what_cannot_be_sent_to_a_process_is_named_with_the_way_out(given, named):
    model, optimizer, loader = task()
    arguments = {"model": model, "optimizer": optimizer, "train_loader": loader, "heldout_loader": loader} | given
    with pytest.raises(ConfigError, match=rf"^jobs: {named} cannot be sent to another process \(.*leave out jobs$"):
        clrtool.range_test(**arguments, seeds=2, jobs=2, **QUICK)


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "2", None])
def test_a_number_of_processes_that_is_none_is_refused(jobs):
    with pytest.raises(ConfigError, match=r"^jobs = .* must be a whole number of at least 1$"):
        clrtool.range_test(*task(), jobs=jobs, **QUICK)


def test_a_test_of_one_seed_needs_no_process_and_sends_nothing():
    model, optimizer, loader = task()
    loss = unsendable(nn.functional.cross_entropy)
    found = clrtool.range_test(model, optimizer, loader, loader, loss=loss, jobs=4, epochs=1, progress=False)
    assert len(found.curves) == 1


SCRIPT = """
import torch, clrtool
from torch import nn
class Net(nn.Linear): pass
def test():
    x = torch.randn(640, 8, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :4].argmax(1)), 32, shuffle=True)
    model = Net(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = clrtool.range_test(model, optimizer, loader, loader, epochs=6, method="paper", sweep_epochs=1, seeds=2, jobs=2)
    print(len(found.curves), "curves")
"""


@pytest.mark.short(0)
@pytest.mark.parametrize(
    ("call", "says"),
    [
        ('if __name__ == "__main__":\n    test()', None),
        ("test()", "In a script, call range_test under if __name__ == '__main__':"),
    ],
    ids=["guarded", "bare"],
)
def test_a_script_whose_model_is_its_own_needs_the_usual_guard(tmp_path, call, says):
    (tmp_path / "train.py").write_text(f"{SCRIPT}\n{call}\n")
    done = subprocess.run([sys.executable, tmp_path / "train.py"], capture_output=True, text=True, check=False)
    if says is None:
        assert (done.returncode, done.stdout) == (0, "2 curves\n"), done.stderr
    else:
        assert done.returncode == 1
        assert says in done.stderr.splitlines()[-1]


@pytest.mark.short(0)
def test_a_class_that_stands_at_a_prompt_or_in_a_notebook_is_told_to_be_in_a_module():
    done = subprocess.run([sys.executable, "-c", f"{SCRIPT}\ntest()"], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert "jobs: a new process cannot load what it is sent (AttributeError: Can't get attribute 'Net'" in last
    assert "in a module (a .py file)" in last
