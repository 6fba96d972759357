"""The time over which AdamW averages its updates: the learning rate and the weight decay in one number.

Wang and Aitchison, arXiv 2405.13698: with decoupled weight decay the weights are an exponential moving average of
recent updates, over 1 / (lr * weight_decay) iterations. Its best value, in epochs, hardly changes with the size of a
model or a data set, lies above an epoch, and below the length of the training.
"""

from __future__ import annotations

import math

# Classes of torch.optim, of timm and of transformers whose weight decay is lr * weight_decay of each weight.
DECOUPLED = ("AdamW", "NAdamW", "AdamW8bit", "AdamWLegacy", "StableAdamW", "Lion", "Muon")


def averaging_iterations(lr: float, weight_decay: float) -> float:
    """1 / (lr * weight_decay); infinite without decay.

    >>> averaging_iterations(1e-3, 0.1), averaging_iterations(1e-3, 0)
    (10000.0, inf)
    """
    share = lr * weight_decay
    return 1 / share if share > 0 else math.inf
