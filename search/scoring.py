"""What a sub-network is worth on some rows, wherever it is computed: in this process or on a worker of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from archrank.supernet.evaluation import read_population
from archrank.supernet.net import Elastic
from archrank.supernet.tasks import Task, Totals, inputs_of

__all__ = ["score"]


def score(
    net: Elastic, task: Task, rows: Sequence[Mapping[str, Tensor]], ranks: Mapping[str, int], dtype: str = "fp32"
) -> dict[str, float]:
    """Mean loss in nats and accuracy of a sub-network of a supernet over batches with labels.

    dtype: of the base meanwhile. One candidate at a time, so that its bits depend on nothing but the weights and the
    rows: not on its neighbours, nor on how many workers share them.
    """
    device = next(net.base.parameters()).device
    batches = [{k: v.to(device) for k, v in batch.items()} for batch in rows]
    inputs = [inputs_of(batch) for batch in batches]

    def read(answer: Any, place: int) -> Totals:
        return task.totals(answer.logits, batches[place])

    told = read_population(net, [ranks], inputs, read, "auto", dtype)[0]
    loss, correct, count = (sum(getattr(t, name) for t in told) for name in ("loss", "correct", "count"))
    return {"loss": loss / count, "accuracy": correct / count}
