"""Errors of a GPU in words that help: CUDA tells of them late, wherever the program next waits for the device."""

from __future__ import annotations

import torch

from clrtool.errors import ConfigError, MachineError

# What CUDA and its libraries say where they have no memory left, of which torch makes no class of its own.
_NO_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED")
# A kernel's own check, most often of an index: the fault of what it was given.
_CHECKED = "device-side assert"
_OF_THE_MACHINE = {
    "no kernel image": "this torch is built for other GPUs: pytorch.org has others, and --device cpu does without",
    "busy or unavailable": "another process holds the GPU: nvidia-smi names it, and --device cpu does without",
}
_OTHERWISE = (
    "the GPU computes no more in this process: CUDA_LAUNCH_BLOCKING=1 shows which operation it was, and nvidia-smi "
    "whether the GPU is in order"
)


def told(error: BaseException) -> Exception | None:
    """What to raise in place of an error of CUDA's; None for any other. It blames no field, for that may be wrong."""
    line = str(error).strip().partition("\n")[0]
    is_ours = isinstance(error, torch.AcceleratorError) or (
        type(error) is RuntimeError and line.startswith("CUDA error")
    )
    if not is_ours:
        return None
    if any(words in line for words in _NO_MEMORY):
        return MemoryError(line)
    if _CHECKED in line:
        return ConfigError(
            f"{line}: an index was out of range on the GPU, most often that of a label or a token for which the model "
            "has no place; on the CPU the operation says so itself: --device cpu"
        )
    return MachineError(f"{line}: {next((fix for words, fix in _OF_THE_MACHINE.items() if words in line), _OTHERWISE)}")
