"""Problems that several tests build."""

import pytest

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.runtime.ranks import SINGLE_PROCESS

# JAX, which other tests import into this process, warns of every fork.
FORKS = pytest.mark.filterwarnings("ignore:os.fork")


def digits(device="cpu", allow_import=(), deterministic=False, ranks=SINGLE_PROCESS, **changes):
    """The handwritten digits, 1,500 for training in batches of 50, with sections of the config replaced or added to."""
    values = {"model": {"name": "mlp"}, "data": {"name": "digits", "batch_size": 50, "heldout": 297}}
    for section, change in changes.items():
        both = (
            isinstance(change, dict) and isinstance(values.get(section), dict) and not {"name", "factory"} & set(change)
        )
        values[section] = values[section] | change if both else change
    config = RangeTestConfig.model_validate(values)
    return build_workload(config, device=device, allow_import=allow_import, deterministic=deterministic, ranks=ranks)
