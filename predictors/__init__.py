"""Device models: what a workload costs in milliseconds and bytes on hardware that is not here. No torch.

A device is one TOML file under `devices/`; its file name is the registry.
"""

from archrank.predictors import choosing, metrics, surrogates
from archrank.predictors.device import FEW, Device, Prediction
from archrank.predictors.fitting import Fitted, fit
from archrank.predictors.profile import DTYPES, DeviceError, Profile
from archrank.predictors.registry import available, load, summary
from archrank.predictors.saving import save
from archrank.predictors.table import workload
from archrank.predictors.transfer import Transferred, transfer

__all__ = [
    "DTYPES",
    "FEW",
    "Device",
    "DeviceError",
    "Fitted",
    "Prediction",
    "Profile",
    "Transferred",
    "available",
    "choosing",
    "fit",
    "load",
    "metrics",
    "save",
    "summary",
    "surrogates",
    "transfer",
    "workload",
]
