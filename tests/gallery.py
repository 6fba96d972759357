"""For each verdict and advice measurements that lead to it, and their picture in the guide's troubleshooting page."""

import math
import re

import numpy as np

from clrtool.cli.guide import FOLDER
from clrtool.core.racing.choose import choose
from clrtool.core.racing.going_on import continued
from clrtool.core.reading.curve import SweepOutcome
from clrtool.core.reading.paper import find_bounds
from clrtool.core.reading.verdict import Advice, Verdict
from clrtool.core.results.judgement import ComparisonVerdict
from clrtool.report.text.canvas import Axis, Canvas, spanning
from tests.core.test_bounds import LRS, curve, hill, noisy
from tests.core.test_racing import always, bowl, entry, raced, swept

PAGE = FOLDER / "troubleshooting.md"
SECTIONS = {
    "Verdicts": Verdict,
    "Advice": Advice,
    "How a sweep ended": SweepOutcome,
    "Verdicts of a comparison": ComparisonVerdict,
}
WIDTH, HEIGHT = 60, 6


def seeds(make, number=3, sd=0.005):
    return [curve(noisy(make(seed), seed, sd), seed) for seed in range(number)]


def already_risen():
    lr = np.linspace(0.05, 0.5, 61)
    risen = np.where(np.arange(61) == 0, 0.5, 0.8)
    return [curve(np.where(lr < 0.3, risen, 0.1), seed, lr=lr) for seed in range(2)]


CURVES = {
    Verdict.CLEAR: seeds(lambda _: hill()),
    Verdict.WIDE: seeds(lambda _: hill(1e-4, 1e-3, 0.1)),
    Verdict.WEAK: [curve(hill(top=2e-3, fall=0.02), 0), curve(hill(fall=0.5), 1)],
    Verdict.INCONCLUSIVE: seeds(lambda _: hill(height=0), sd=0.006),
    Advice.NEVER_LEARNED: seeds(lambda _: hill(height=0), sd=0.006),
    Advice.BROKE_AT_ONCE: [curve(np.array([0.1, 0.1, np.nan]), seed, SweepOutcome.NOT_FINITE) for seed in range(2)],
    Advice.STILL_RISING: seeds(lambda _: hill(top=2.0, fall=5.0), 2),
    Advice.UNBROKEN: seeds(lambda _: hill(fall=5.0), 2),
    Advice.ALREADY_RISEN: already_risen(),
    Advice.ONE_SEED: seeds(lambda _: hill(), 1),
    Advice.SEEDS_DISAGREE: [curve(hill(top=2e-3, fall=0.02), 0), curve(hill(fall=0.5), 1)],
    Advice.INSENSITIVE: seeds(lambda _: hill(1e-4, 1e-3, 0.1)),
}
TWO = entry(budget=800, seeds=2)
# With what the sweep gives, where that matters.
RACES = {
    Advice.NOTHING_LEARNED: (raced(entry(), always(2.29)), None),
    Advice.NOTHING_MOVED: (raced(entry(first=2.25), always(2.25)), None),
    Advice.NOTHING_FINITE: (raced(entry(), always(math.inf)), None),
    Advice.LITTLE_LEARNED: (raced(TWO, lambda power, n: 2.15 + 0.02 * abs(power + 6) - n / 1e5), None),
    Advice.SHORT_RUNS: (
        raced(entry(budget=800, seeds=2, first=1.5), lambda power, n: 0.6 + 0.2 * abs(power + 6)),
        None,
    ),
    Advice.GAPS: (
        raced(
            entry(start=-8, budget=400, seeds=2),
            lambda power, n: (2.2 if n < 70 else 1.5) + (0.01 if n < 70 else 0.1) * abs(power + 8),
        ),
        None,
    ),
    Advice.CLOSE_RACE: (raced(TWO, lambda seed, power, n: bowl(-6 - 2 * seed, 0.3)(power, n)), None),
    Advice.BETTER_STOPPED: (raced(entry(first=0.5), lambda power, n: 0.5 + 0.02 * 2.0 ** (power / 4 + 2)), None),
    Advice.BROKE_BELOW: (raced(entry(seeds=2), bowl(-6)), swept(-9)),
}

UNDER_WAY = {Advice.BETTER_STOPPED, Advice.SHORT_RUNS}


def bounds_of(case):
    """What measurements come to."""
    if case in CURVES:
        return find_bounds(CURVES[case], heldout_samples=2000)
    race, sweep = RACES[case]
    return continued(race, sweep) if case in UNDER_WAY else choose(race, sweep)


def picture(case):
    """The measurements in letters; None where none are shown."""
    drawn = _curves(CURVES[case]) if case in CURVES else _race(*RACES[case]) if case in RACES else None
    return drawn and "\n".join(line.rstrip() for line in drawn.splitlines())


def _curves(curves):
    canvas = Canvas(Axis(LRS[0], LRS[-1], is_log=True), Axis(0, 1), WIDTH, height=HEIGHT, ascii_only=True)
    if curves[0].lr[0] > 0.01:
        canvas = Canvas(Axis(curves[0].lr[0], curves[0].lr[-1]), Axis(0, 1), WIDTH, height=HEIGHT, ascii_only=True)
    for letter, each in zip("abc", curves, strict=False):
        canvas.letters(each.lr, each.metric, letter)
    return canvas.framed(
        f"held-out accuracy; {'a letter per seed, * for several' if len(curves) > 1 else 'one seed'}", "learning rate"
    )


def _race(race, sweep):
    finite = [probe for probe in race.probes if math.isfinite(probe.loss)]
    if not finite:
        return None
    powers = [probe.power for probe in finite]
    axis = Axis(2.0 ** min(powers), 2.0 ** max(powers), is_log=True)
    most = race.entry.constant
    height = spanning([np.array([most, *(min(probe.loss, most) for probe in finite)])])
    canvas = Canvas(axis, height, WIDTH, height=HEIGHT, ascii_only=True)
    for seed, letter in ((0, "a"), (1, "b")):
        last = {probe.power: probe.loss for probe in race.probes if probe.seed == seed and probe in finite}
        known = sorted(last)
        canvas.letters(2.0 ** np.array(known, dtype=float), np.array([last[each] for each in known]), letter)
    pointers = {"the sweep breaks": sweep.max_lr} if sweep else {}
    title = "held-out loss, up to a constant answer's"
    return canvas.framed(title, "learning rate", pointers)


def entries(text):
    """Of the page: each sentence of clrtool's that it has to explain, and the text of its entry."""
    for heading, sentences in SECTIONS.items():
        section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        found = dict(re.findall(r"^### `(\w+)`[^\n]*\n(.*?)(?=^### |\Z)", section, re.DOTALL | re.MULTILINE))
        for sentence in sentences:
            yield sentence, found.get(sentence.word)


def beginning(case):
    """What an entry begins with: the sentence that is printed, and the picture."""
    drawn = picture(case)
    return f"\n> {case.value}\n" + (f"\n```text\n{drawn}\n```\n" if drawn else "")


def refreshed(text):
    """The page with the sentences and pictures of today."""
    for sentence, entry_text in list(entries(text)):
        rest = re.sub(r"\A\n(?:> [^\n]*\n\n?)?(?:```text\n.*?```\n\n?)?", "", entry_text, flags=re.DOTALL)
        suffix = " in a comparison" if isinstance(sentence, ComparisonVerdict) else ""
        heading = f"### `{sentence.word}`"
        for head in (f"{heading}{suffix}\n", f"{heading}\n"):
            if head + entry_text in text:
                text = text.replace(head + entry_text, head + beginning(sentence) + "\n" + rest.lstrip("\n"))
                break
    return text


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text()))
