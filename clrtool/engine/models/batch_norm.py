"""Batch norm in several ranks: what it sees, and how it comes to see the samples of all."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from clrtool.errors import ConfigError

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synced(make_model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The recipe of a model whose batch norm sees the samples of all ranks."""

    def make() -> nn.Module:
        model = make_model()
        for name, module in model.named_modules():
            if isinstance(module, _BATCH_NORMS) and type(module) not in _BATCH_NORMS:
                kind = type(module).__name__
                raise ConfigError(f"training.sync_batch_norm: {name} is a {kind}, which does more than torch's own")
        synchronized: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synchronized

    return make


def seen_by_batch_norm(model: nn.Module, batch_size: int, world: int) -> str:
    """The samples over which batch norm of a model takes its means; empty if there is none."""
    kinds = {type(module) for module in model.modules() if _is_batch_norm(module)}
    if not kinds:
        return ""
    if kinds == {nn.SyncBatchNorm}:
        return f"{batch_size * world} samples, those of all ranks"
    return f"{batch_size} samples, those of one rank"


def _is_batch_norm(module: nn.Module) -> bool:
    """One of torch's, or one of somebody else's that keeps running averages too."""
    return isinstance(module, (*_BATCH_NORMS, nn.SyncBatchNorm)) or isinstance(
        getattr(module, "running_mean", None), Tensor
    )
