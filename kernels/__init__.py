"""Numerical ops, one a file: a plain torch reference and a public function that picks an implementation.

Nothing heavy is imported before an op is used, so that probing this package on a machine without torch or a GPU cannot
fail.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archrank.kernels.gated_lora import gated_lora as gated_lora
    from archrank.kernels.gated_lora import gated_lora_reference as gated_lora_reference
    from archrank.kernels.grouped_choice_linear import grouped_choice_linear as grouped_choice_linear
    from archrank.kernels.grouped_choice_linear import (
        grouped_choice_linear_reference as grouped_choice_linear_reference,
    )
    from archrank.kernels.onebit import onebit_pack as onebit_pack
    from archrank.kernels.onebit import onebit_unpack as onebit_unpack
    from archrank.kernels.segmented_lora import segmented_lora as segmented_lora
    from archrank.kernels.segmented_lora import segmented_lora_reference as segmented_lora_reference
    from archrank.kernels.sparse_delta import sparse_delta_apply as sparse_delta_apply
    from archrank.kernels.sparse_delta import sparse_delta_switch as sparse_delta_switch
    from archrank.kernels.sparse_delta import sparse_delta_undo as sparse_delta_undo
    from archrank.kernels.spectral_lora import masked_lora as masked_lora
    from archrank.kernels.spectral_lora import masked_lora_reference as masked_lora_reference
    from archrank.kernels.spectral_lora import spectral_lora as spectral_lora
    from archrank.kernels.spectral_lora import spectral_lora_reference as spectral_lora_reference
    from archrank.kernels.walsh_hadamard import walsh_hadamard as walsh_hadamard
    from archrank.kernels.walsh_hadamard import walsh_hadamard_reference as walsh_hadamard_reference

_FILES = {
    "gated_lora": ("gated_lora", "gated_lora_reference"),
    "grouped_choice_linear": ("grouped_choice_linear", "grouped_choice_linear_reference"),
    "onebit": ("onebit_pack", "onebit_unpack"),
    "segmented_lora": ("segmented_lora", "segmented_lora_reference"),
    "sparse_delta": ("sparse_delta_apply", "sparse_delta_switch", "sparse_delta_undo"),
    "spectral_lora": ("spectral_lora", "spectral_lora_reference", "masked_lora", "masked_lora_reference"),
    "walsh_hadamard": ("walsh_hadamard", "walsh_hadamard_reference"),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}

__all__ = [
    "gated_lora",
    "gated_lora_reference",
    "grouped_choice_linear",
    "grouped_choice_linear_reference",
    "masked_lora",
    "masked_lora_reference",
    "onebit_pack",
    "onebit_unpack",
    "segmented_lora",
    "segmented_lora_reference",
    "sparse_delta_apply",
    "sparse_delta_switch",
    "sparse_delta_undo",
    "spectral_lora",
    "spectral_lora_reference",
    "walsh_hadamard",
    "walsh_hadamard_reference",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"archrank.kernels has no op {name!r}; there are: {', '.join(__all__)}")
    module = import_module(f"{__name__}.{_HOME[name]}")
    # importing the file binds its module under the op's own name: put the functions there instead
    globals().update({public: getattr(module, public) for public in _FILES[_HOME[name]]})
    return globals()[name]
