"""The steps of a LightningModule, called outside its Trainer's loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from clrtool.engine.inprocess.counting import samples_of
from clrtool.engine.inprocess.manual import Manual
from clrtool.errors import ConfigError


class Steps:
    """The steps of a module, called on its copies; what they log goes nowhere."""

    def __init__(self, trainer: Trainer, datamodule: Any, driven: Sequence[Any], clips: bool) -> None:
        self._datamodule = datamodule
        self._trainer, self._logged, self._calls = trainer, dict[str, Any](), 0
        self._manual = Manual(driven, clips) if driven else None

    def train(self, module: LightningModule, batch: Any) -> Any:
        """The loss, or None for a batch to be skipped."""
        made = self._call(module, "training_step", batch)
        if self._manual is not None:
            return self._manual.loss()
        return made.get("loss") if isinstance(made, Mapping) else made

    def monitored(self, name: str) -> Any:
        """A measure: what ``validation_step`` logs by a name, the mean over the samples."""

        def measure(module: LightningModule, batch: Any) -> tuple[float, int]:
            self._logged.clear()
            self._call(module, "validation_step", batch)
            if name not in self._logged:
                logged = ", ".join(self._logged) or "nothing"
                raise ConfigError(f"monitor: validation_step does not log {name!r}; it logs {logged}")
            value = self._logged[name]
            number = samples_of(batch) or 1
            return float(value.compute() if hasattr(value, "compute") else value) * number, number

        return measure

    def _call(self, module: LightningModule, name: str, batch: Any) -> Any:
        if "log" not in vars(module):
            self._take_over(module)
        function = getattr(module, name)
        self._calls += 1
        for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):  # in which batches are augmented
            batch = getattr(self._hooks_of(module, hook), hook)(batch, 0)
        # by position, as its loops do, whatever the second argument is called
        places = (batch, self._calls) if is_param_in_hook_signature(function, "batch_idx", min_args=2) else (batch,)
        with self._trainer.precision_plugin.forward_context():
            return function(*places)

    def give_back(self, module: LightningModule) -> None:
        """Let a module log again, where it was trained itself and no copy of it."""
        for part in module.modules():
            for name in ("log", "log_dict"):
                if getattr(vars(part).get(name), "__module__", None) == __name__:
                    delattr(part, name)
        if self._manual is not None:
            self._manual.give_back(module)

    def _hooks_of(self, module: LightningModule, hook: str) -> Any:
        """Whose hook it is: a datamodule's goes before the module's own, as in a Trainer."""
        data = self._datamodule
        return data if data is not None and is_overridden(hook, data) else module

    def _take_over(self, module: LightningModule) -> None:
        """Let a copy know its Trainer, and log into a dictionary: the Trainer's loops, which log, do not run."""
        module.trainer = self._trainer

        def log(name: str, value: Any, *_: Any, **__: Any) -> None:
            self._logged[name] = value

        def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
            self._logged.update(values)

        for part in module.modules():
            if isinstance(part, LightningModule):
                part.log, part.log_dict = log, log_dict  # type: ignore[method-assign, assignment]
        if self._manual is not None:
            self._manual.replace_in(module)
