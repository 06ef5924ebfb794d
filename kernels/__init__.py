"""Numerical ops, one a file: a plain torch reference and a public function that picks an implementation.

Nothing heavy is imported before an op is used, so that probing this package on a machine without torch or a GPU cannot
fail.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archrank.kernels.spectral_lora import spectral_lora as spectral_lora
    from archrank.kernels.spectral_lora import spectral_lora_reference as spectral_lora_reference

__all__ = ["spectral_lora", "spectral_lora_reference"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"archrank.kernels has no op {name!r}; there are: {', '.join(__all__)}")
    module = import_module(f"{__name__}.{name.removesuffix('_reference')}")
    # importing the file binds its module under the op's own name: put the functions there instead
    globals().update({public: getattr(module, public) for public in module.__all__})
    return globals()[name]
