"""The paper's rows that are trained: settings, what the paper has and what is accepted.

Smith, arXiv 1506.01186 v6, tables 1 to 3; Smith, arXiv 1803.09820, table 1; Smith and Topin, arXiv 1708.07120. One pass
over the training set is 500 iterations of 100 images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clrtool.core.planning.make import make_plan, plan_stages
from clrtool.core.planning.plan import Plan, plan_from
from tests.benchmarks.paper.training import Run

EPOCH, SHORT, LONG = 500, 25_000, 70_000
Range = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: in words.
        paper: its accuracy in percent; None where it has none.
        accepted: percent, from and to; None to report only.
        on_copy: accepted for the JPEG copy, where that differs.
    """

    run: Run
    what: str
    paper: float | None = None
    accepted: Range | None = None
    on_copy: Range | None = None


def stages(base_lr: float, max_lr: float, shape: str) -> Plan:
    """Three stages, each with a tenth of the rates before it, as long as those of table 2."""
    lengths = ((2000, 16_000), (1000, 22_000), (500, 25_000))
    return plan_stages(
        [(base_lr / 10**k, max_lr / 10**k, *length) for k, length in enumerate(lengths)], EPOCH, shape=shape
    )


def drops(rate: float, milestones: tuple[int, int], iterations: int) -> Plan:
    """A rate, and a tenth of it from each milestone on."""
    return Plan(
        policy="multistep",
        base_lr=rate / 100,
        max_lr=rate,
        iterations=iterations,
        iterations_per_epoch=EPOCH,
        params={"gamma": 0.1, "milestones": list(milestones)},
    )


def fixed(rate: float) -> Plan:
    return make_plan(rate / 2, rate, EPOCH, epochs=SHORT / EPOCH, policy="fixed")


def exp_range(stepsize: int, *, decay_base: bool) -> Plan:
    """Whole cycles of it, at least 42,000 iterations."""
    cycles = -(-42_000 // (2 * stepsize))
    numbers = {"gamma": 0.99994, "decay_base": decay_base}
    return make_plan(
        0.001, 0.006, EPOCH, policy="exp_range", stepsize_epochs=stepsize / EPOCH, cycles=cycles, **numbers
    )


def solver(name: str, args: str, decay: float = 0.004) -> str:
    """Another optimizer, a class of torch or a factory, with the same multipliers, as on the command line."""
    kind = "factory" if ":" in name else "name"
    return (
        f"optimizer={{{kind}: '{name}', args: {{{args}, weight_decay: {decay}}}, groups: ["
        "{params: [conv1.bias, conv2.bias, ip1.bias], lr_ratio: 2}, "
        f"{{params: [ip1.weight], args: {{weight_decay: {250 * decay}}}}}, "
        "{params: [ip1.bias], args: {weight_decay: 0.0}}]}"
    )


CAFFE, TORCH = "caffe_factories:caffe_sgd", solver("SGD", "momentum: 0.9")
# It falls over one stepsize; the last rate of a plan is held to the end.
DECAY = make_plan(0.001, 0.007, EPOCH, policy="decay", stepsize_epochs=8, cycles=1)
# The same, with the drops of table 2.
DROPPED = plan_from(
    "optax:piecewise_interpolate_schedule",
    {
        "interpolate_type": "linear",
        "init_value": 0.007,
        "boundaries_and_scales": {4000: 1 / 7, 15_999: 1, 16_000: 0.1, 21_999: 1, 22_000: 0.1},
    },
    iterations=SHORT,
    iterations_per_epoch=EPOCH,
)
R2 = Row(
    Run("R2", stages(0.001, 0.005, "triangular2"), SHORT),
    "triangular2 in the three stages of table 2, 25,000 iterations",
    81.4,
    (80.6, 82.2),
    (78.5, 82.2),
)
C1 = Row(
    Run("C1", drops(0.001, (16_000, 22_000), SHORT), SHORT), "fixed 0.001 with the same two drops, no cycles, 25,000"
)
R3 = Row(Run("R3", DECAY, SHORT), "decay from 0.007 to 0.001 in 4,000, then 0.001, 25,000", 78.5, (77.0, 80.0))
# What R3 leaves open, one change each.
INSTEAD = [
    Row(
        replace(R3.run, name="R3-order", words=("data.shuffle=false",)),
        "the images in one fixed order, as Caffe reads them",
    ),
    Row(replace(R3.run, name="R3-drops", plan=DROPPED), "with the drops of table 2 at 16,000 and 22,000"),
    Row(replace(R3.run, name="R3-torch", words=(TORCH,)), "with torch's momentum"),
]
# R19: the best of these rates, each throughout.
GRID = [Run(f"R19-fixed-{rate}", fixed(rate), SHORT) for rate in (0.0003, 0.001, 0.003, 0.006)]

# One cycle of the first stage, and what sets this port apart from the paper's, one change each.
CYCLE = Run("short", make_plan(0.001, 0.005, EPOCH, policy="triangular", stepsize_epochs=4, cycles=1), 4000)
CHANGED = [
    Row(CYCLE, "as R2 begins"),
    Row(replace(CYCLE, name="short-jpeg", data="again"), "the images compressed as JPEG once more"),
    Row(
        replace(CYCLE, name="short-order", words=("data.shuffle=false",)),
        "one fixed order of the images, never shuffled",
    ),
    Row(
        replace(CYCLE, name="short-torch", words=(TORCH,)),
        "torch's momentum, the rate outside the buffer",
    ),
]
# Of cifar10-full, and of cifar10-resnet56.
FIGURE_3 = "sweep={start_lr: 1e-5, end_lr: 0.02, spacing: linear, epochs: 8, evaluations: 20, seeds: 5}"
RISE = "sweep={start_lr: 1e-3, end_lr: 3, spacing: linear, epochs: 100, evaluations: 50, seeds: 3}"
SPREAD = (
    "data.batch_size=512",
    "training.micro_batches=1",
    "sweep={start_lr: 1e-7, end_lr: 100, epochs: 1, seeds: 20}",
)

# Those below take a GPU. Batches of 128 make 390 iterations of one pass.
NESTEROV, ADAM = solver(CAFFE, "momentum: 0.9, nesterov: true"), solver("Adam", "eps: 1.0e-8")


def one_cycle(name: str, momentum: float, paper: float, accepted: Range | None = None, *, moves: bool = False) -> Row:
    """Smith, arXiv 1803.09820, table 1: Nesterov, weight decay 0.003, 25 epochs, 0.0005 to 0.005 in 11."""
    momenta = (0.85, momentum) if moves else None
    plan = make_plan(0.0005, 0.005, 390, epochs=9765 / 390, policy="one_cycle_smith", stepsize=4297, momentum=momenta)
    words = ("data.batch_size=128", solver(CAFFE, f"momentum: {momentum}, nesterov: true", 0.003))
    what = f"1cycle, batches of 128, momentum {'0.95 to 0.85' if moves else momentum}, 9,765"
    return Row(Run(name, plan, 9765, words), what, paper, accepted)


# One cycle of ResNet-56; and the run of 80,000 iterations that it is held against.
SUPER = Run(
    "R14",
    make_plan(0.1, 3.0, 50, policy="triangular", stepsize_epochs=100, cycles=1),
    10_000,
    config="cifar10-resnet56",
)
STEPS = make_plan(0.0035, 0.35, 50, epochs=1600, policy="multistep", gamma=0.1, milestones=[50_000, 70_000])
FEW = ("data.args.limit=10000",)
SIGMOID = Run(
    "R13-fixed", make_plan(0.0005, 0.001, EPOCH, epochs=120, policy="fixed"), 60_000, config="cifar10-sigmoid-bn"
)

ON_GPU = [
    Row(Run("R1", drops(0.001, (60_000, 65_000), LONG), LONG), "fixed 0.001 with drops at 60,000 and 65,000, 70,000", 81.4, (80.7, 82.5)),
    Row(
        Run("R4", make_plan(1e-5, 0.001, EPOCH, epochs=LONG / EPOCH, policy="exponential", gamma=0.99994), LONG),
        "exp, gamma 0.99994, 70,000; base_lr 0.001 is assumed", 79.1, (77.6, 80.6),
    ),
    *(
        Row(
            Run(f"R5-{stepsize}{'-base' * decay_base}", exp_range(stepsize, decay_base=decay_base), 42_000),
            f"exp_range, gamma 0.99994, 42,000; 0.001 to 0.006 in {stepsize:,} is assumed"
            + ", and that both bounds decline" * decay_base, 82.2,
        )
        for stepsize in (2000, 3000) for decay_base in (False, True)
    ),
    one_cycle("R10", 0.95, 81.3, (80.5, 82.0), moves=True),
    *(one_cycle(f"R11-{momentum}", momentum, paper) for momentum, paper in ((0.85, 79.5), (0.9, 80.2), (0.95, 81.2))),
    *(
        Row(Run(f"R12-{name}", plan, iterations, (words,)), what, paper, (paper - 1, paper + 1))
        for name, words, plan, iterations, what, paper in (
            ("nesterov", NESTEROV, drops(0.001, (60_000, 65_000), LONG), LONG, "Nesterov, as R1", 82.1),
            ("nesterov-cycles", NESTEROV, stages(0.001, 0.006, "triangular"), SHORT,
             "Nesterov, triangular 0.001 to 0.006 in three stages, 25,000", 81.3),
            ("adam", ADAM, drops(0.0005, (60_000, 65_000), LONG), LONG, "Adam, 0.0005, dropped as R1", 81.4),
            ("adam-cycles", ADAM, stages(0.0005, 0.002, "triangular"), SHORT,
             "Adam, triangular 0.0005 to 0.002 in three stages, 25,000", 79.8),
        )
    ),
    Row(SIGMOID, "sigmoid and batch norm, fixed 0.001, 60,000", 60.8),
    Row(SUPER, "ResNet-56, batches of 1,000, one cycle of 0.1 to 3, 10,000", 92.4, (91.3, 92.9)),
    Row(replace(SUPER, name="R16-cycle", words=FEW), "R14 on 10,000 images", 80.6),
    Row(replace(SUPER, name="R16-steps", plan=STEPS, iterations=80_000, words=FEW),
        "10,000 images, 0.35 with drops at 50,000 and 70,000, 80,000", 71.4),
    *(
        Row(replace(SUPER, name=f"R17-{decay:g}", words=(f"optimizer.args.weight_decay={decay}",)),
            f"R14 with a weight decay of {decay:g}", paper)
        for decay, paper in ((1e-3, 10.0), (1e-5, 88.3), (1e-6, 87.3))
    ),
]  # fmt: skip
