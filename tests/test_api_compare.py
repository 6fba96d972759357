"""A comparison of a program: against its own training loop, and that nothing of the program's is changed."""

import matplotlib.figure
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import clrtool
from clrtool.cli.compare import POLICIES
from clrtool.core.results.candidates import USUAL
from clrtool.errors import ConfigError
from tests.documents import snippet
from tests.test_api import HELDOUT, TRAIN, Used, sgd
from tests.test_projects import Words, carried, passages

TRAINING, HELD = DataLoader(TRAIN, 50), DataLoader(HELDOUT, 100)
BOUNDS = (0.01, 0.3)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def compared(model=net, optimizer=sgd, **options):
    return clrtool.compare(model, optimizer, TRAINING, HELD, **{"bounds": BOUNDS, "progress": False} | options)


def accuracy_by_hand(model, plan, epochs):
    """What a plain loop with the plan's scheduler comes to."""
    optimizer = sgd(model)
    scheduler = clrtool.PlanScheduler(optimizer, plan)
    for _ in range(epochs):
        for inputs, targets in TRAINING:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        return float((model(HELDOUT.tensors[0]).argmax(1) == HELDOUT.tensors[1]).double().mean())


def test_each_training_ends_where_a_loop_of_the_program_with_the_same_plan_ends():
    torch.manual_seed(7)
    model = net()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    plans = {
        name: clrtool.make_plan(*BOUNDS, len(TRAINING), epochs=4, policy=name) for name in ("one_cycle", "triangular2")
    }
    found = compared(model, sgd(model), policies=plans, trainings=1, epochs=4)
    for name, plan in plans.items():
        copied = net()
        copied.load_state_dict(before)
        assert found.finals[name] == (accuracy_by_hand(copied, plan, 4),)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_names_rates_and_plans_are_compared_and_the_result_is_shown(tmp_path):
    mine = clrtool.make_plan(0.05, 0.2, len(TRAINING), epochs=2, policy="cosine")
    found = compared(policies=["one_cycle", 1e-6, mine], trainings=2, epochs=3, title="<mine>")
    assert list(found.finals) == ["one_cycle", "fixed:1e-06", "cosine"]
    assert found.best != "fixed:1e-06"
    assert found.plan == {"one_cycle": found.record.candidates[0].plan, "cosine": mine}[found.best]
    assert {each.seed for one in found.record.candidates for each in one.trainings} == {0, 1}
    assert "cosine: the plan ends; the last 12 iterations keep its last rate" in " ".join(str(found).split())
    html = found._repr_html_()
    assert all(each in html for each in ("&lt;mine&gt;: 3 policies", "<td", "data:image/png;base64,iVBOR"))
    assert isinstance(found.plot(tmp_path / "all.svg"), matplotlib.figure.Figure)
    assert (tmp_path / "all.svg").exists()


def test_the_bounds_of_a_range_test_are_taken_and_its_cost_is_told():
    test = clrtool.range_test(net, sgd, TRAINING, HELD, epochs=10, progress=False)
    found = compared(bounds=test, policies=["fixed", "one_cycle"], trainings=1, epochs=2)
    assert found.record.bounds[:2] == (test.base_lr, test.max_lr)
    assert f"which cost {test.record.cost_epochs:.3g} epochs" in " ".join(str(found).split())


def test_everything_of_the_program_is_as_it_was():
    used = Used()
    before = used.hash()
    clrtool.compare(used.model, used.optimizer, used.train, used.heldout, bounds=BOUNDS, trainings=1, epochs=2,
                    policies=["fixed", "cosine"], progress=False)  # fmt: skip
    assert used.hash() == before


def test_held_out_samples_that_cannot_be_counted_are_not_told_of():
    found = clrtool.compare(Words, lambda model: torch.optim.SGD(model.parameters(), 1.0), passages(8, 12, 0),
                            passages(8, 3, 1), step=carried, bounds=(1.0, 4.0), policies=["fixed", "cosine"],
                            trainings=1, epochs=1, progress=False)  # fmt: skip
    assert found.record.heldout_samples == 0
    assert "held out" not in str(found)


def test_the_guides_example_runs_as_it_stands():
    names = {"clrtool": clrtool, "model": net(), "train_loader": TRAINING, "heldout_loader": HELD}
    names["optimizer"] = sgd(names["model"])
    block = snippet("clrtool.compare(").replace("epochs=30", "epochs=1").replace("trainings=3", "trainings=1")
    exec(block, names)  # noqa: S102 (it is our own)
    assert list(names["found"].finals) == ["fixed", "one_cycle", "triangular2", "fixed:0.01"]
    assert names["scheduler"].get_last_lr() == [names["found"].plan.lr(0)]


def test_policies_are_those_of_the_command_line_where_none_are_named():
    assert ",".join(USUAL) == POLICIES
    assert tuple(compared(trainings=1, epochs=1).finals) == USUAL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": 0.1}, r"bounds: must be a range test or \(base_lr, max_lr\)"),
        ({"bounds": (0.3, 0.01)}, "the second above the first"),
        ({"policies": ["one_cicle", "fixed"]}, "'one_cicle' is no policy; did you mean 'one_cycle'"),
        ({"policies": ["fixed"]}, "2 to 8 can be compared, not 1"),
        ({"policies": [0.1, 0.1]}, "one is there twice"),
        ({"policies": [0.1, None]}, "None is no policy's name"),
        ({"policies": {"a": 0.1, "b": "c"}}, "b: must be a plan, a rate, or None"),
        ({"policies": [0.1, -1.0]}, "a fixed rate must be finite and above 0"),
        ({"budget": 0.5, "seeds": 2}, "budget: is for a range test"),
        ({"trainings": 0}, "trainings = 0 must be a whole number of at least 1"),
        ({"target": 3.0}, "target = 3.0: must be above 0 and at most 1"),
        ({"epoch": 3}, "unknown option 'epoch'; did you mean 'epochs'"),
        ({"policies": ["fixed", clrtool.make_plan(0.1, 1, 12, epochs=50)], "epochs": 2}, "use epochs=50"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_the_words_of_python(options, message):
    with pytest.raises(ConfigError, match=message):
        compared(**options)
