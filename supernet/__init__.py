"""Weight sharing over a pretrained base: elastic adapters, rank policies, training, evaluation, export. Imports torch
when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archrank.supernet import policies as policies
    from archrank.supernet import proxies as proxies
    from archrank.supernet.bank import Bank
    from archrank.supernet.canonical_form import canonical
    from archrank.supernet.cut_export import load_cut
    from archrank.supernet.cut_network import CutNetwork
    from archrank.supernet.elastic_encoder import ElasticEncoder
    from archrank.supernet.ensemble_evaluator import EnsembleEvaluator
    from archrank.supernet.ensemble_export import load_ensemble
    from archrank.supernet.ensembles import Ensemble, ensemble
    from archrank.supernet.evaluation import evaluation_methods
    from archrank.supernet.net import Config, Elastic, elastic
    from archrank.supernet.networks import Network, build
    from archrank.supernet.population_training import train_population
    from archrank.supernet.sandwich import Sandwich, fine_tune, train_sandwich, train_whole
    from archrank.supernet.subnetwork import SubNetwork
    from archrank.supernet.tracing import workload

__all__ = [
    "Bank",
    "Config",
    "CutNetwork",
    "Distillation",
    "Elastic",
    "ElasticEncoder",
    "Ensemble",
    "EnsembleEvaluator",
    "Network",
    "Sandwich",
    "SubNetwork",
    "build",
    "canonical",
    "elastic",
    "ensemble",
    "evaluation_methods",
    "fine_tune",
    "load_cut",
    "load_ensemble",
    "policies",
    "proxies",
    "train_population",
    "train_sandwich",
    "train_whole",
    "workload",
]

_HOME = {
    "Bank": "bank",
    "Config": "net",
    "CutNetwork": "cut_network",
    "Distillation": "distillation",
    "Elastic": "net",
    "ElasticEncoder": "elastic_encoder",
    "Ensemble": "ensembles",
    "Network": "networks",
    "build": "networks",
    "canonical": "canonical_form",
    "elastic": "net",
    "EnsembleEvaluator": "ensemble_evaluator",
    "ensemble": "ensembles",
    "load_ensemble": "ensemble_export",
    "load_cut": "cut_export",
    "evaluation_methods": "evaluation",
    "fine_tune": "sandwich",
    "Sandwich": "sandwich",
    "SubNetwork": "subnetwork",
    "train_population": "population_training",
    "train_sandwich": "sandwich",
    "train_whole": "sandwich",
    "workload": "tracing",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in ("policies", "adapters", "proxies"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"archrank.supernet has no {name!r}; there are: {', '.join(__all__)}")
