"""Data sets for adaptation: read through the `datasets` library, split once, encoded for one base."""

from archrank.supernet.data.encode import TaskData, order, prepare
from archrank.supernet.data.errors import DataError
from archrank.supernet.data.source import BUILT_IN, RawData, read_dataset

__all__ = ["BUILT_IN", "DataError", "RawData", "TaskData", "order", "prepare", "read_dataset"]
