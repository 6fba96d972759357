"""How long a range test is where the config leaves that open: within the budget of a race, or one training run."""

from __future__ import annotations

from dataclasses import dataclass

# Smith sweeps "for several epochs"; four of them, and enough iterations to see a break to within a few per cent: one is
# read to about five iterations, and 300 over the usual two decades make that 8 %.
EPOCHS, ITERATIONS = 4, 300
# Three sweeps show how far seeds agree. Where three of full length do not fit, two long ones show more; a third follows
# if they broke early enough to leave room for it.
SEEDS, FEWER = 3, 2
# A scout takes this share of a training run, within these iterations.
SCOUT_SHARE, SCOUT = 0.25, (40, 100)
# Shorter sweeps show nothing, whatever they may cost.
SHORTEST = 40
# A race has so many iterations at the least, whatever share of a training that is: with 400 of them it chooses among
# ten rates, and with half as many it does not.
LEAST_BUDGET = 500
# The largest share of a training that may be asked for.
MOST_BUDGET = 10
# What the scout and the sweeps before a race may take of its budget. They tell where the curve breaks, and draw it.
RACE_SCOUT, RACE_SWEEP = 0.08, 0.12
# Longer sweeps, or more of them, may be asked for; with less than half of the budget the race finds nothing.
MOST_SWEPT = 0.5
# Evaluations of such a sweep, and of a race; about as many as it takes.
SWEEP_POINTS, READINGS = 12, 18


@dataclass(frozen=True)
class SweepSize:
    """How long a range test is.

    Args:
        scout: iterations of the scout.
        iterations: of the sweep of one seed, from end to end.
        most: of one that goes on beyond its end because nothing broke yet.
        seeds: how many sweeps there are at first.
        budget: iterations of everything, with the race after the sweeps; None where there is no race.
    """

    scout: int
    iterations: int
    most: int
    seeds: int
    budget: int | None = None

    @property
    def run(self) -> int:
        """Iterations that all of it may take, unless it has to be swept again."""
        return self.scout + self.seeds * self.most

    @property
    def trained(self) -> int:
        """Iterations that evaluations are a part of: those of the sweep of a seed, or of a race and all before it."""
        return self.iterations if self.budget is None else self.budget


def sweep_size(iterations_per_epoch: int, plan_epochs: float, epochs: float | None, seeds: int | None) -> SweepSize:
    """The size of a range test.

    Args:
        iterations_per_epoch: optimizer steps in one pass over the training set.
        plan_epochs: length of the training run that is planned.
        epochs: of the sweep of one seed; None for as many as fit, up to what a sweep needs.
        seeds: None for three, or for two where three do not fit.

    >>> sweep_size(44, 30, None, None)
    SweepSize(scout=100, iterations=300, most=406, seeds=3, budget=None)
    >>> sweep_size(23, 8, None, None)
    SweepSize(scout=46, iterations=69, most=69, seeds=2, budget=None)
    """
    run = plan_epochs * iterations_per_epoch
    scout = int(min(max(SCOUT_SHARE * run, SCOUT[0]), SCOUT[1]))
    if epochs is not None:
        iterations = max(2, round(epochs * iterations_per_epoch))
        return SweepSize(scout, iterations, 2 * iterations, seeds or SEEDS)
    wanted = max(EPOCHS * iterations_per_epoch, ITERATIONS)
    room = run - scout
    number = seeds or (SEEDS if SEEDS * wanted <= room else FEWER)
    most = max(SHORTEST, int(room / number))
    iterations = min(wanted, most)
    return SweepSize(scout, iterations, min(most, 2 * iterations), number)


def race_size(
    iterations_per_epoch: int, plan_epochs: float, budget: float, epochs: float | None, seeds: int | None
) -> SweepSize:
    """The size of a range test whose sweep is short, for a race follows it.

    Args:
        iterations_per_epoch, plan_epochs, epochs, seeds: as for :func:`sweep_size`.
        budget: of all together, as a share of the training that is planned.

    Raises:
        ValueError: the sweeps leave nothing of it for the race.

    >>> race_size(44, 30, 0.25, None, None)
    SweepSize(scout=40, iterations=60, most=60, seeds=1, budget=500)
    >>> race_size(1000, 30, 0.25, None, None)
    SweepSize(scout=100, iterations=600, most=600, seeds=1, budget=7500)
    """
    total, number = max(LEAST_BUDGET, int(budget * plan_epochs * iterations_per_epoch)), seeds or 1
    scout = int(min(max(RACE_SCOUT * total, SCOUT[0]), SCOUT[1]))
    iterations = max(SHORTEST, min(int(RACE_SWEEP * total / number), 2 * ITERATIONS))
    if epochs is not None:
        iterations = max(2, round(epochs * iterations_per_epoch))
    if scout + number * iterations > MOST_SWEPT * total:
        raise ValueError(
            f"the scout and {number} sweeps of {iterations:,} iterations take more than half of the {total:,} that the "
            "race and they may take together: sweep for fewer epochs or fewer seeds, or give a larger budget"
        )
    return SweepSize(scout, iterations, iterations, number, total)
