"""A model's weights: read from a file, those that start from new random weights, and the parts that do not train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.config.components import ModelConfig
from clrtool.engine.data.tensors import is_finite
from clrtool.engine.runtime import serialize
from clrtool.errors import ConfigError, MachineError
from clrtool.files import open_plain, size_of
from clrtool.words import count, nearest

# Bytes of a header of .safetensors, which takes thirty times as many to read: hundreds of thousands of tensors.
_MOST_HEADER = 2**24
Weights = Mapping[str, Tensor]
# The names by which a file holds a state dict; of others it is the only one.
_NAMES = ("state_dict", "model_state_dict", "model")
# How weights that do not fit are made to.
_MEND = {
    "model.weights": "List in model.fresh what to initialize instead",
    "start": "Give the config's model the arguments that it was trained with, or for a new task begin anew from "
    "model.weights, with model.fresh for what to initialize",
}
_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip


def with_weights(make_model: Callable[[], nn.Module], config: ModelConfig) -> Callable[[], nn.Module]:
    """The recipe of a model whose weights come from a file and whose frozen parts do not train."""
    weights = None if config.weights is None else read_weights(Path(config.weights))

    def make() -> nn.Module:
        model = make_model()
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: must be a torch.nn.Module, the factory returned {type(model).__name__}")
        if weights is not None:
            load(model, weights, config.fresh, str(config.weights))
        for pattern in config.freeze:
            freeze(model, pattern)
        return model

    if config.fresh and weights is None:
        raise ConfigError("model.fresh names what model.weights should not fill, and there are no model.weights")
    return make


def read_weights(path: Path, field: str = "model.weights") -> Weights:
    """A state dict from ``.safetensors``, or from a file of torch without running what it may hold."""
    return weights_in(read_file(path, field), path, field)


def weights_in(found: Any, path: Path, field: str) -> Weights:
    """The state dict in what a file holds, checked. Raises ConfigError for anything else."""
    for name in _NAMES:
        found = found.get(name, found) if isinstance(found, Mapping) else found
    if not _is_state(found):
        inside = found.values() if isinstance(found, Mapping) else ()
        states = [each for each in inside if _is_state(each) and each]
        if len(states) != 1:
            held = ", ".join(map(str, [*found][:5])) if isinstance(found, Mapping) else f"a {type(found).__name__}"
            raise ConfigError(
                f"{field}: {path} must hold a state dict of tensors by name, alone or as {_NAMES[0]}; it holds {held}"
            )
        found = states[0]
    # without what a file may have set on a tensor, such as an attribute in the place of a method
    found = {name: Tensor.detach(tensor) for name, tensor in found.items()}
    check_tensors(found, path, field)
    if all(name.startswith("module.") for name in found.keys() - {"n_averaged"}):  # as torch's AveragedModel counts
        found.pop("n_averaged", None)
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in found.items()}


def _is_state(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(key, str) and isinstance(found[key], Tensor) for key in found)


def check_tensors(found: Weights, path: Path, field: str) -> None:
    """Raise ConfigError for tensors that are not what they say, or hold numbers that are not finite."""
    for name, tensor in found.items():
        if fault := _fault(tensor):
            raise ConfigError(f"{field}: {path} holds {name} {fault}")
    _check_stored(path, found, field)
    for name, tensor in found.items():
        if not is_finite(tensor):
            raise ConfigError(f"{field}: {path} holds {name} with NaN or infinite values")


def read_file(path: Path, field: str) -> Any:
    """What a file holds, whatever that is; nothing of it is run."""
    try:
        if not path.exists():
            raise MachineError(f"{field}: {path} does not exist (relative to {Path.cwd()})")
        with open_plain(path) as file:
            if not (size := size_of(file)):
                raise ConfigError(f"{field}: {path} is empty")
            if path.suffix != ".safetensors":
                return serialize.load(file, size)
            # its length stands before it
            if _MOST_HEADER < (length := int.from_bytes(file.read(8), "little")) <= size:
                raise ConfigError(
                    f"{field}: {path} has a header of {length:,} bytes; at most {_MOST_HEADER:,} are read"
                )
        from safetensors.torch import load_file

        return load_file(path)
    except (ConfigError, MachineError):
        raise
    except ModuleNotFoundError as error:
        raise MachineError(f"{field}: reading .safetensors needs: pip install safetensors") from error
    except OSError as error:
        raise ConfigError(
            f"{field}: {path} cannot be read: {error.strerror}; give a .safetensors or .pt file"
        ) from error
    except Exception as error:  # safetensors has an error class of its own, and bytes that are no pickle raise any
        raise ConfigError(
            f"{field}: {path} holds no weights that can be read without running code ({type(error).__name__}): it is "
            "cut short, damaged, or more than tensors; copy it again, or save model.state_dict()"
        ) from error


def _fault(tensor: Tensor) -> str | None:
    """What is wrong with a tensor of anybody's, before anything is made of it."""
    if tensor.device.type == "meta":
        return "without its numbers (on the device meta): save it from where they are"
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        return "as a sparse, nested or quantized tensor: save it dense, as floating-point numbers"
    if tensor.dtype not in _DTYPES:
        return f"as {tensor.dtype}: save it as float32, float16 or bfloat16"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"as {tuple(tensor.shape)}, larger than what is stored: save it with .contiguous()"
    return None


def _check_stored(path: Path, weights: Weights, field: str) -> None:
    """Raise ConfigError for tensors that a file declares without holding their numbers: torch would allocate them."""
    stored = {storage.data_ptr(): storage.nbytes() for each in weights.values() if (storage := each.untyped_storage())}
    if sum(stored.values()) > path.stat().st_size:
        raise ConfigError(f"{field}: {path} declares more numbers than it holds; save model.state_dict()")


def load(model: nn.Module, weights: Weights, fresh: Iterable[str], source: str, field: str = "model.weights") -> None:
    """Copy weights into a model, all but the ``fresh``. Raises ConfigError for a name or a shape that does not fit."""
    state = model.state_dict()
    drawn = {name for pattern in fresh for name in matching(pattern, state, "model.fresh")}
    wanted = {name: tensor for name, tensor in state.items() if name not in drawn}
    faults = [f"has no {name}" for name in wanted if name not in weights]
    faults += [f"has {name}, which the model lacks" for name in weights if name not in state]
    faults += [
        f"has {name} as {tuple(weights[name].shape)}, the model as {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    faults += [
        f"has {name} in complex numbers, the model in real ones"
        for name, tensor in wanted.items()
        if name in weights and weights[name].is_complex() and not tensor.is_complex()
    ]
    if faults:
        more = f", and {count(len(faults) - 3, 'more fault')}" if len(faults) > 3 else ""
        raise ConfigError(f"{field}: {source} {'; '.join(faults[:3])}{more}. {_MEND[field]}")
    model.load_state_dict({name: weights[name] for name in wanted}, strict=False)


def freeze(model: nn.Module, pattern: str) -> None:
    """Take the parameters of a name pattern out of training."""
    parameters = dict(model.named_parameters())
    for name in matching(pattern, parameters, "model.freeze"):
        parameters[name].requires_grad = False


def keep_frozen_statistics(model: nn.Module) -> None:
    """Put batch norms whose own parameters are all frozen into evaluation mode: frozen is what does not change."""
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        has_statistics = isinstance(getattr(module, "running_mean", None), Tensor)
        if has_statistics and parameters and not any(each.requires_grad for each in parameters):
            module.eval()


def matching(pattern: str, names: Iterable[str], field: str, kind: str = "parameter of the model") -> list[str]:
    """The names that a shell pattern fits. Raises ConfigError if there is none: no such ``kind``."""
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(f"{field}: no {kind} fits {pattern!r}; {nearest(pattern, names)}")
    return found
