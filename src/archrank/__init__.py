"""archrank: neural architecture and rank search. Light: nothing heavy loads before it is used."""

__version__ = "0.1.0"
