"""How far bounds can be trusted, and what to do next: verdicts and advice, each with the sentence that is shown."""

from __future__ import annotations

from clrtool.words import Sentence

# Seeds whose interval of max_lr spans more than this factor do not settle it; the problems of the benchmark lose a
# point of accuracy within a factor of 2 to 10.
SPREAD = 4.0
# Accuracy that stays near its best over a decade does not depend on the learning rate to speak of.
WIDE = 10.0


class Verdict(Sentence):
    """How far the bounds can be trusted; the value is the sentence shown."""

    CLEAR = "What was measured shows both bounds, and agrees."
    WIDE = "What was measured shows both bounds, and hardly changes between them."
    WEAK = "What was measured shows both bounds, but does not settle them."
    INCONCLUSIVE = "What was measured does not show both bounds."


class Advice(Sentence):
    """What keeps a verdict from being clear, and the next step to take; the value is the sentence shown."""

    NEVER_LEARNED = "Nothing was learned: check data and labels, or raise sweep.end_lr or sweep.epochs."
    BROKE_AT_ONCE = "The loss broke before anything was learned: lower sweep.start_lr, or mend a model that gives NaN."
    STILL_RISING = "The curve still improves where the sweep ends, so max_lr is at least this: raise sweep.end_lr."
    UNBROKEN = "Nothing broke: a larger max_lr may train as well or better. Raise sweep.end_lr to see."
    ALREADY_RISEN = "The curve improves from the very start, so base_lr is at most this: lower sweep.start_lr."
    ONE_SEED = "One seed cannot show how far seeds agree: run with more --seeds, or a larger budget."
    SEEDS_DISAGREE = (
        f"The interval of max_lr spans more than a factor of {SPREAD:g}: raise sweep.epochs or --seeds, or let "
        "sweep.method=race choose."
    )
    INSENSITIVE = f"Any max_lr will do over more than a factor of {WIDE:g}; sweep.method=race chooses among them."
    NOTHING_LEARNED = "No rate does clearly better than a constant answer: raise the budget, or check data and labels."
    NOTHING_MOVED = (
        "The held-out score is the same at every rate: read a loss or a finer score, or check that the model that is "
        "scored is the one that is trained."
    )
    BETTER_STOPPED = (
        "No rate to go on with is better than to stop here: keep the model as it is, or change what it is trained on."
    )
    NOTHING_FINITE = "Every rate gives a loss that is NaN or infinite: mend the model, its loss or its data."
    LITTLE_LEARNED = (
        "The runs have learned little yet, and longer ones may rank the rates differently: raise the budget."
    )
    SHORT_RUNS = (
        "The runs are short beside what is left, and longer ones may rank the rates differently: raise the budget."
    )
    BROKE_BELOW = (
        "The sweep broke below the rate that won, and max_lr lies between them: raise the budget to tell which."
    )
    SPLIT_OFF = "There is no held-out set, so a part of the training set was held out: give one."
    TRAINING_LOSS = "There is no held-out set: this is the loss of batches that are trained on. Give held-out ones."
    ALIKE_SEEDS = (
        "Every seed is given the same samples in the same order, so their agreement says little: shuffle them with "
        "torch's global generator."
    )
    GAPS = "Seeds agree, but the first has read no rate within a factor of two of their pick: raise the budget."
    CLOSE_RACE = (
        "Seeds prefer different rates, and max_lr lies between them: where it matters, train with what each prefers."
    )


# The advice of earlier versions that says it in other words now, as it stands in their files.
FORMER = {
    "No rate does better than a constant answer: raise the budget, or check data and labels.": Advice.NOTHING_LEARNED,
    "Seeds prefer different rates, and max_lr lies between them: raise the budget to tell them apart.": (
        Advice.CLOSE_RACE
    ),
    "Every seed is given the same samples in the same order, so that seeds agree says little.": Advice.ALIKE_SEEDS,
    "Every seed is given the same samples in the same order, so that seeds agree says little: shuffle them with "
    "torch's global generator.": Advice.ALIKE_SEEDS,
    "The runs have learned little yet, and longer ones may rank the rates otherwise: raise the budget.": (
        Advice.LITTLE_LEARNED
    ),
    "There is no held-out set, and a part of the training set was held out in its place: give one.": Advice.SPLIT_OFF,
    "One seed cannot show how far seeds agree: run with --seeds 3.": Advice.ONE_SEED,
    "The interval of max_lr spans more than a factor of 4: raise sweep.epochs or --seeds, or let --verify choose.": (
        Advice.SEEDS_DISAGREE
    ),
    "Any max_lr will do over more than a factor of 10; --verify trains to choose among them.": Advice.INSENSITIVE,
}
