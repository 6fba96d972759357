"""The constants of the race, each with its reason. What halving and doubling them does is in the regret report."""

# What the first seed takes of the budget, if there are more: with less it cannot wait on a plateau.
FIRST = 0.62
# Its part is cut into so many first runs: the shortest horizon is the 16th part, 16 iterations of 250. Below 12
# iterations the first steps decide, and not the rate.
PARTS, SHORTEST = 16, 12
# First steps between rates, in powers of two; a look around the best fills in what they leave out.
STRIDE = 2
# Losses up to so much above the constant answer's say nothing where nothing has been learned: a start swings. So many
# rates wait there for one that learns, the lower of those that a climb has found.
LEVEL, WAITING = 0.2, 3
# Where the start itself is on such a plateau, losses do not tell where to go: the rates so many powers above and below
# are tried too, and the highest whose units are alive waits beside the start.
APART = 3
# A run has exploded when its loss is above the start's and the constant answer's by so many times their size. It ranks
# as one that is not finite: of two rates that explode the higher may have the lower loss.
EXPLODED = 10
# Rates are told apart there by how far the answers of the last layer differ from input to input, as a share of what
# they did before training. With less than this left, units are dead, and the rate is too high.
DEAD = 0.05
# The rest of the budget goes to the highest waiting rate whose answers differ at least by this share of the most that
# those of any waiting rate do.
LAGGING = 0.5
# A plateau is left when so much of the constant answer's loss is gone.
LEFT = 0.075
# Runs within so many powers of the best of any horizon may be gone on with: up to so many at once.
NEAR = 4
HELD = 2 * NEAR + 1
# The first look around the best takes so many horizons: its own as long again, and two neighbours twice as long. Where
# that is not left, neighbours are trained as long as it was.
AROUND = 5
# How many go on to each of the rounds that follow; the horizon doubles from round to round, or is what is left of the
# budget. It has to grow by this factor to tell more.
FINALISTS, WORTH = (3, 2, 2), 1.25
# A finalist must have closed so much of the constant answer's loss; less is noise of a start that learns nothing yet.
# Where none has, the best goes on alone.
LEARNED = 0.02
# A rate above the best is taken in its place where it lies behind by at most so much of the gain and of the loss, at
# the longest horizon that knows both: a schedule comes down from its peak and forgives what a flat run cannot.
FORGIVEN, DEARER = 0.15, 0.3
# A pick at which another seed loses so much of its gain is not taken, whatever the first seed made of it: a cliff.
REFUSED = 0.3
# max_lr stays so many powers of two below a rate at which a seed that learns elsewhere does no better than a constant
# answer: with one, a training falls off a cliff that short runs have just not reached.
BELOW_CLIFF = 2
# Rates as powers of two beyond which nothing is tried: 1e-8 does not move float32 weights, 1e3 moves all too far.
LOWEST, HIGHEST = -26, 10
# base_lr against max_lr: Smith's rule of thumb is a third or a quarter (arXiv 1506.01186 v6, section 3.3), and a
# quarter trains better.
BASE = 0.25
# An interval, in powers of two below and above: on the benchmark's jobs 92 % of such held the middle of the rates that
# lose at most 5 %, and 88 % with two on either side.
BELOW, ABOVE = 2, 2.5
# What a clear race has: a gain of so much of the constant answer's loss, and the same pick of two seeds that both read
# a rate within a factor of two of it. Where the first has left gaps of four, the second alone tells.
CLEAR_GAIN = 0.1
# By which factor of a race a budget doubles the next one: the sweeps before it grow too.
TWICE = 2.5
