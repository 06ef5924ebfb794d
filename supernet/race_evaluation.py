"""A population raced over blocks of a data set: racing.py says who is dropped, this runs who is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from archrank.supernet.evaluation import Evaluator, loss_of, read_population, rows_of, stacked
from archrank.supernet.racing import Race, Raced, RaceError, dropped, leading, looks, outdone

if TYPE_CHECKING:
    from archrank.supernet.net import Config, Elastic

__all__ = ["race_population"]

Batch = Mapping[str, Tensor]
Way = tuple[str, str]
"""Method and compute dtype."""


def race_population(
    net: Elastic,
    configs: Sequence[Config],
    data: Sequence[Batch],
    race: Race,
    method: str = "auto",
    compute_dtype: str = "fp32",
) -> Raced:
    """Evaluates block by block and drops candidates as `race` says; survivors get their whole-set means.

    RaceError for costs that are not one tuple a configuration, and for a loss below 0 where error is 0.
    """
    if race.costs is not None and len(race.costs) != len(configs):
        raise RaceError(f"{len(race.costs)} tuples of costs for {len(configs)} configurations: give one for each")
    rows_of(data)
    if not configs:
        return Raced(torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64), torch.empty(0).bool())
    way = (method, compute_dtype)
    return _certain(net, configs, data, race, way) if race.error == 0 else _sampled(net, configs, data, race, way)


def _certain(net: Elastic, configs: Sequence[Config], data: Sequence[Batch], race: Race, way: Way) -> Raced:
    """Hardest blocks first; after each, those who lead see the rest at once, for the others to be measured against."""
    blocks, pilot = _hardest_first(net, data, race, way)
    rows = rows_of(blocks)
    n, count = len(configs), len(blocks)
    seen = torch.zeros(n, count, dtype=torch.float64)
    at, beaten_by = torch.zeros(n, dtype=torch.int64), torch.full((n,), -1)
    with Evaluator(net, way[0], blocks, way[1]).opened() as evaluator:
        vectors = evaluator.vectors(configs)

        def see(who: Tensor, k: int) -> None:
            if not len(who):
                return
            losses = stacked(evaluator.batch([vectors[i] for i in who.tolist()], k, blocks[k], loss_of))
            if bool((losses < 0).any()):
                raise RaceError(
                    f"a loss of {float(losses.min()):.3g} on a block of {int(rows[k])} rows: without an error a race "
                    "needs losses of at least 0; give Race(error=0.05) for one that samples"
                )
            seen[who, k] = losses * rows[k]
            at[who] = k + 1

        def drop() -> None:
            verdict = outdone(seen.sum(1), at == count, race)
            beaten_by[:] = torch.where(beaten_by < 0, verdict, beaten_by)

        for k in range(count):
            running = (beaten_by < 0) & (at == k)
            if not bool(running.any()):
                break
            see(running.nonzero().flatten(), k)
            drop()
            ahead = leading(seen[:, : k + 1].sum(1), (beaten_by < 0) & (at == k + 1), race).nonzero().flatten()
            for later in range(k + 1, count):
                see(ahead, later)
            drop()
    losses = seen.sum(1) / rows.sum()
    share = pilot.cumsum(0) / pilot.sum()
    gone = beaten_by >= 0
    losses[gone] /= torch.where((share > 0) & (share <= 1), share, 1.0)[at[gone] - 1]
    spent = torch.cat([torch.zeros(1), rows.cumsum(0)]).long()[at]
    return Raced(losses, spent, beaten_by >= 0, int(rows.sum()))


def _hardest_first(net: Elastic, data: Sequence[Batch], race: Race, way: Way) -> tuple[list[Batch], Tensor]:
    """Blocks in falling order of what a pilot loses on their rows, and Σ of that loss in each; the pilot has every
    module at a quarter of the largest rank.

    Row by row where the base's loss is the mean cross-entropy of its logits; else the blocks are those of the data as
    it lies, sorted.
    """
    pilot = [{name: max(1, adapter.rank // 4) for name, adapter in net.items()}]
    told = read_population(net, pilot, data, lambda answer, i: _row_losses(answer, data[i]), *way)[0]
    found = [t for t in told if t is not None]
    if len(found) == len(data) and len({tuple(sorted((k, v.shape[1:]) for k, v in b.items())) for b in data}) == 1:
        hard, order = torch.sort(torch.cat(found).double(), descending=True, stable=True)
        whole = {k: torch.cat([b[k] for b in data]) for k in data[0]}
        parts = [{k: v[i.to(v.device)] for k, v in whole.items()} for i in torch.split(order, race.block_rows)]
        return list(parts), torch.stack([part.sum() for part in torch.split(hard, race.block_rows)])
    blocks = [part for batch in data for part in _parts(batch, race.block_rows)]
    hard = stacked(read_population(net, pilot, blocks, loss_of, *way)[0])
    hard, order = torch.sort(hard, descending=True, stable=True)
    blocks = [blocks[i] for i in order.tolist()]
    return blocks, hard * rows_of(blocks)


def _row_losses(answer: Any, batch: Batch) -> Tensor | None:
    """`(rows,)`, on the CPU; None where the base's loss is another one."""
    logits, labels = getattr(answer, "logits", None), batch["labels"]
    if not isinstance(logits, Tensor) or logits.dim() != 2 or labels.dim() != 1 or labels.is_floating_point():
        return None
    rows = cross_entropy(logits.float(), labels.to(logits.device), reduction="none")
    own = loss_of(answer, 0).float()
    return rows.cpu() if torch.allclose(rows.mean(), own, rtol=1e-2, atol=1e-4) else None


def _sampled(net: Elastic, configs: Sequence[Config], data: Sequence[Batch], race: Race, way: Way) -> Raced:
    blocks = [part for batch in data for part in _parts(batch, race.block_rows)]
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(race.seed)).tolist()
    blocks = [blocks[i] for i in order]
    rows = rows_of(blocks)
    n, stops = len(configs), set(looks(len(blocks)))
    seen = torch.zeros(n, len(blocks), dtype=torch.float64)
    spent, beaten_by = torch.zeros(n, dtype=torch.int64), torch.full((n,), -1)
    ended = torch.full((n,), len(blocks))
    with Evaluator(net, way[0], blocks, way[1]).opened() as evaluator:
        vectors = evaluator.vectors(configs)
        for k, block in enumerate(blocks, 1):
            alive = (beaten_by < 0).nonzero().flatten()
            seen[alive, k - 1] = stacked(evaluator.batch([vectors[i] for i in alive.tolist()], k - 1, block, loss_of))
            spent[alive] += int(rows[k - 1])
            if k in stops:
                verdict = dropped(seen[:, :k], beaten_by < 0, len(blocks), race)
                ended[verdict >= 0] = k
                beaten_by = torch.where(verdict >= 0, verdict, beaten_by)
    losses = seen @ rows / rows.sum()
    # a rival was dropped later than the one it beat, or not at all: its own estimate is ready first
    for i in sorted((beaten_by >= 0).nonzero().flatten().tolist(), key=lambda i: -int(ended[i])):
        k, rival = int(ended[i]), int(beaten_by[i])
        losses[i] = losses[rival] + (seen[i, :k] - seen[rival, :k]) @ rows[:k] / rows[:k].sum()
    return Raced(losses, spent, beaten_by >= 0)


def _parts(batch: Batch, rows: int) -> list[Batch]:
    total = len(batch["labels"])
    return [{k: v[low : low + rows] for k, v in batch.items()} for low in range(0, total, rows)]
