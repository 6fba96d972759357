"""The range test for a LightningModule: ``pip install 'clrtool[lightning]'``.

The module's own ``training_step`` runs on copies, outside the Trainer's loops. So the test can be called before or
after a training, or from a callback during one.
"""

try:
    import lightning.pytorch  # noqa: F401
except ImportError as error:
    raise ImportError("clrtool.lightning needs Lightning: pip install 'clrtool[lightning]'") from error

from clrtool.lightning.callback import LRRangeTest
from clrtool.lightning.module import range_test

__all__ = ["LRRangeTest", "range_test"]
