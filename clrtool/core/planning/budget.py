"""How whole cycles fit into a budget of epochs, with a reason for every number and every rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from clrtool.core.schedules.checks import check_positive, check_whole
from clrtool.words import count

# Section 3.2 of arXiv 1506.01186 v6: a stepsize of 2-10 epochs; at least 3 cycles train most of the way, 4 are better.
MIN_STEPSIZE_EPOCHS, MAX_STEPSIZE_EPOCHS = 2, 10
GOOD_CYCLES = 4
DEFAULT_EPOCHS = 30.0
# More is a slip of the pen.
MAX_EPOCHS, MAX_ITERATIONS = 1e5, 1e9
# A budget that divides is never farther where the number of cycles is free: 20 epochs are one cycle of the longest.
SEARCH_EPOCHS = 4 * MAX_STEPSIZE_EPOCHS


@dataclass(frozen=True)
class Fit:
    """A budget as numbers of a plan. ``iterations`` counts what follows the warm-up; ``left`` is not used."""

    warmup: int
    iterations: int
    stepsize: int | None = None
    num_cycles: int | None = None
    left: int = 0
    reasons: tuple[str, ...] = ()

    def lengths(self) -> dict[str, Any]:
        """The numbers of a plan that count iterations."""
        total = self.warmup + self.iterations
        return {"iterations": total, "stepsize": self.stepsize, "num_cycles": self.num_cycles, "warmup": self.warmup}


@dataclass(frozen=True)
class Budget:
    """What a user asks for; see ``clrtool.make_plan``.

    Raises:
        ValueError: a number breaks its rule.
    """

    iterations_per_epoch: int
    epochs: float | None = None
    stepsize_epochs: float | None = None
    cycles: int | None = None
    warmup_epochs: float = 0.0
    stepsize_down: int | None = None

    def __post_init__(self) -> None:
        check_positive("iterations_per_epoch", self.iterations_per_epoch, at_most=MAX_ITERATIONS)
        check_whole("iterations_per_epoch", self.iterations_per_epoch)
        if self.warmup_epochs:
            check_positive("warmup_epochs", self.warmup_epochs, at_most=MAX_EPOCHS)
        if self.stepsize_epochs is not None:
            check_positive("stepsize_epochs", self.stepsize_epochs, at_most=MAX_EPOCHS)
        if self.cycles is not None:
            check_whole("cycles", self.cycles)
        if self.stepsize_down is not None:
            check_whole("stepsize_down", self.stepsize_down)
        check_positive("epochs", self.asked, at_most=MAX_EPOCHS)

    @property
    def asked(self) -> float:
        """The budget in epochs; where none was given, what the stepsize and the cycles add up to, or the default."""
        if self.epochs is not None:
            return self.epochs
        if self.stepsize_epochs is None or self.cycles is None:
            return DEFAULT_EPOCHS
        return sum(self._halves()) * self.cycles / self.iterations_per_epoch + self.warmup_epochs

    def asked_for(self) -> dict[str, float | int]:
        """What was given, and the length in epochs, as arguments of ``make_plan``."""
        given = {"epochs": self.asked, "stepsize_epochs": self.stepsize_epochs, "warmup_epochs": self.warmup_epochs}
        in_epochs = {name: float(value) for name, value in given.items() if value}
        return in_epochs | ({} if self.cycles is None else {"cycles": self.cycles})

    def whole(self, policy: str) -> Fit:
        """The whole budget, for a policy without cycles. Raises ValueError if anything was said of cycles."""
        for name in ("stepsize_epochs", "cycles", "stepsize_down"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} has no meaning with the policy {policy}, which has no cycles: leave it out")
        total, warmup = self._iterations()
        return Fit(warmup, total - warmup, reasons=self._rounding(total))

    def in_cycles(self) -> Fit:
        """As many whole cycles as the rule of ``make_plan`` gives.

        Raises:
            ValueError: not one whole cycle fits.
        """
        fit = self._fit()
        total, _ = self._iterations()
        return replace(fit, reasons=(*fit.reasons, *self._outside(fit), *self._rounding(total), *self._rest(fit)))

    def _fit(self) -> Fit:
        total, warmup = self._iterations()
        room = total - warmup
        if self.stepsize_epochs is not None:
            stepsize, down = self._halves()
            period = stepsize + down
            num_cycles = self.cycles or room // period
            reason = "The stepsize was given; as many whole cycles are planned as fit." if self.cycles is None else (
                "The stepsize and the number of cycles were given."
            )  # fmt: skip
        elif self.stepsize_down is not None:
            raise ValueError("stepsize_down needs stepsize_epochs: the rule for the stepsize is one for equal halves")
        else:
            num_cycles, reason = self._choose(room / self.iterations_per_epoch)
            stepsize = room // (2 * num_cycles)
            period = 2 * stepsize
        if stepsize < 1 or num_cycles < 1 or num_cycles * period > room:
            raise ValueError(
                f"epochs = {self.asked:g} leaves {room:,} iterations for cycles, fewer than "
                f"{count(max(num_cycles, 1), 'cycle')} of {max(period, 2):,} needs: "
                "raise epochs or lower stepsize_epochs, cycles or warmup_epochs"
            )
        iterations = num_cycles * period
        return Fit(warmup, iterations, stepsize, num_cycles, room - iterations, (reason,))

    def _choose(self, epochs: float) -> tuple[int, str]:
        if self.cycles is not None:
            return self.cycles, "The number of cycles was given."
        least = math.ceil(epochs / (2 * MAX_STEPSIZE_EPOCHS))
        most = math.floor(epochs / (2 * MIN_STEPSIZE_EPOCHS))
        if most < 1:
            return 1, (
                f"{epochs:g} epochs are fewer than the {2 * MIN_STEPSIZE_EPOCHS} of one cycle with a stepsize of "
                f"{MIN_STEPSIZE_EPOCHS} epochs (section 3.2): one shorter cycle is planned."
            )
        cycles = max(least, min(GOOD_CYCLES, most))
        if cycles == GOOD_CYCLES:
            return cycles, "The paper finds that 3 cycles train most of the way and 4 do better (section 3.2)."
        if cycles == most:
            return cycles, f"As many cycles as fit with a stepsize of at least {MIN_STEPSIZE_EPOCHS} epochs: {cycles}."
        return cycles, f"As few cycles as fit with a stepsize of at most {MAX_STEPSIZE_EPOCHS} epochs: {cycles}."

    def _iterations(self) -> tuple[int, int]:
        """Iterations of the whole budget, and of the warm-up in it."""
        total = _floor(self.asked * self.iterations_per_epoch)
        warmup = round(self.warmup_epochs * self.iterations_per_epoch)
        if total <= warmup:
            rise = f" after {warmup:,} of warm-up" if warmup else ""
            raise ValueError(
                f"epochs = {self.asked:g} is {total:,} iterations, shorter than one cycle{rise}: raise epochs"
            )
        return total, warmup

    def _halves(self) -> tuple[int, int]:
        """Iterations of the rising and of the falling half of a cycle whose stepsize was given."""
        assert self.stepsize_epochs is not None
        stepsize = max(1, round(self.stepsize_epochs * self.iterations_per_epoch))
        return stepsize, self.stepsize_down or stepsize

    def _rounding(self, total: int) -> tuple[str, ...]:
        """What was rounded to whole iterations."""
        per_epoch, rounded = self.iterations_per_epoch, [("epochs", self.asked, total)]
        if self.stepsize_epochs is not None:
            rounded.append(("stepsize_epochs", self.stepsize_epochs, self._halves()[0]))
        return tuple(
            f"{name} = {value:g} is {value * per_epoch:,.6g} iterations, rounded to {whole:,}."
            for name, value, whole in rounded
            if abs(value * per_epoch - whole) > 1e-6 * max(1.0, value * per_epoch)
        )

    def _outside(self, fit: Fit) -> tuple[str, ...]:
        """A stepsize that was asked for and is not one that the paper advises."""
        size = (fit.stepsize or 0) / self.iterations_per_epoch
        if (self.stepsize_epochs is None and self.cycles is None) or MIN_STEPSIZE_EPOCHS <= size <= MAX_STEPSIZE_EPOCHS:
            return ()
        return (
            f"A stepsize of {size:.3g} epochs is outside the paper's {MIN_STEPSIZE_EPOCHS} to {MAX_STEPSIZE_EPOCHS}.",
        )

    def _rest(self, fit: Fit) -> tuple[str, ...]:
        """What is left over, and the nearest budgets that leave nothing."""
        if not fit.left:
            return ()
        fits = " or ".join(self._nearest(fit))
        offer = f" {fits} epochs would leave none over." if fits else ""
        room = fit.iterations + fit.left
        return (f"{fit.left:,} of {room:,} iterations are left over, because a plan ends with a whole cycle.{offer}",)

    def _nearest(self, fit: Fit) -> list[str]:
        """The nearest budgets below and above, in epochs, whole ones where the stepsize is free."""
        if self.stepsize_epochs is not None:
            period = fit.iterations // (fit.num_cycles or 1)
            lengths = [fit.warmup + fit.iterations, fit.warmup + fit.iterations + period]
            return [self._typed(length) for length in (lengths[:1] if self.cycles else lengths)]
        far = max(SEARCH_EPOCHS, 2 * (self.cycles or 0))
        below = range(math.floor(self.asked), math.floor(self.asked) - far, -1)
        above = range(math.ceil(self.asked), math.ceil(self.asked) + far)
        found = [next((epochs for epochs in side if self._divides(epochs)), None) for side in (below, above)]
        return [str(epochs) for epochs in found if epochs is not None]

    def _typed(self, iterations: int) -> str:
        """The number of epochs that makes exactly these iterations, in as few digits as possible."""
        texts = (f"{(iterations + 0.5) / self.iterations_per_epoch:.{digits}g}" for digits in range(1, 18))
        exact = f"{iterations / self.iterations_per_epoch:g}"
        return next(text for text in (exact, *texts) if _floor(float(text) * self.iterations_per_epoch) == iterations)

    def _divides(self, epochs: int) -> bool:
        try:
            return replace(self, epochs=epochs)._fit().left == 0
        except ValueError:
            return False


def _floor(iterations: float) -> int:
    """Rounded down, but 2.3 * 100 is 230."""
    return math.floor(iterations * (1 + 1e-15))
