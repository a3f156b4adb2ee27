"""How well composition and pattern find each other, and whether the embeddings collapse.

Shapes: N materials, Q queries, C candidates, W width of the embeddings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from datamodules import batch as batch_keys
from datamodules.batch import Batch
from datamodules.randomness import Purpose
from datamodules.randomness import keys as random_keys

#: recall@k is reported for these k.
RANKS = (1, 5, 10)
DIRECTIONS = ("composition_to_xrd", "xrd_to_composition")


def ranks_of_matches(similarity_QC: Tensor, match_QC: Tensor) -> Tensor:
    """How many wrong candidates are at least as similar to the query as its best match, (Q,).

    Args:
        similarity_QC: Similarities.
        match_QC: Which candidates are right, bool; at least one for each query.
    """
    best_Q1 = similarity_QC.masked_fill(~match_QC, float("-inf")).amax(dim=1, keepdim=True)
    return ((similarity_QC >= best_Q1) & ~match_QC).sum(dim=1)


def uniformity(embedding_NW: Tensor) -> Tensor:
    """Logarithm of the mean Gaussian potential of pairs; lower is more uniform, 0 is collapse.

    Source: Wang & Isola, arXiv 2005.10242, equation 7 with t = 2.
    """
    return (-2 * F.pdist(embedding_NW).square()).exp().mean().log()


def effective_rank(embedding_NW: Tensor) -> Tensor:
    """Dimensions that the embeddings fill: the exponential of their singular values' entropy.

    Source: Garrido et al. (RankMe), arXiv 2210.02885, equation 1.
    """
    share = torch.linalg.svdvals(embedding_NW - embedding_NW.mean(dim=0))
    share = share / share.sum().clamp_min(1e-12)
    return torch.special.entr(share).sum().exp()


class Retrieval(Metric):
    """Retrieval of the one modality by the other, and the shape of the embedding space.

    A hit is a candidate with the query's reduced formula: a composition cannot tell polymorphs
    apart. `compute` returns

    - `random/…/recall_at_k` both ways: the candidates are `pool_size` random materials (all, if
      there are fewer), averaged over as many such pools as there are; `random/pool_size`;
    - `hard/…/recall_at_k`: the candidates are all materials of the query's chemical system, for
      queries whose system has several formulas; `hard/queries`, `hard/candidates` (a query, on
      average) and `hard/chance` (recall@1 of guessing). Left out if there is no such query;
    - `loss`: symmetric InfoNCE in the random pools;
    - `distance` (of the two modalities, squared, on average), `…/uniformity`,
      `…/spread` (standard deviation of a coordinate, 1 for evenly spread unit vectors, 0 for
      collapse) and `…/effective_rank`.

    Args:
        pool_size: Materials in a random pool.
    """

    full_state_update = False
    composition: list[Tensor]
    xrd: list[Tensor]
    index: list[Tensor]
    formula_key: list[Tensor]
    system_key: list[Tensor]

    def __init__(self, pool_size: int = 1024) -> None:
        super().__init__()
        if pool_size < 2:
            raise ValueError(f"pool_size is {pool_size}: must be at least 2")
        self.pool_size = pool_size
        for name in ("composition", "xrd", "index", "formula_key", "system_key"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, composition_BW: Tensor, xrd_BW: Tensor, batch: Batch) -> None:
        """Add the embeddings of a batch, without its padding rows."""
        counts_B = batch[batch_keys.WEIGHT] > 0
        self.composition.append(composition_BW[counts_B].float())
        self.xrd.append(xrd_BW[counts_B].float())
        self.index.append(batch[batch_keys.INDEX][counts_B])
        self.formula_key.append(batch[batch_keys.FORMULA_KEY][counts_B])
        self.system_key.append(batch[batch_keys.SYSTEM_KEY][counts_B])

    def embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        """One random pool: compositions and patterns, (N, W) each, and row numbers, (N,).

        All ranks must ask.
        """
        n = self.pool_size
        with self.sync_context():
            composition, xrd, index = self._sorted()[:3]
        # Copies: views would keep the rows of all ranks for as long as someone keeps these.
        return composition[:n].clone(), xrd[:n].clone(), index[:n].clone()

    def compute(self, temperature: Tensor | float = 1.0) -> dict[str, Tensor]:
        """Everything above; `temperature` is the loss's."""
        composition, xrd, _, formula_key, system_key = self._sorted()
        n_pools = max(1, len(composition) // self.pool_size)
        size = min(len(composition), self.pool_size)
        values = dict.fromkeys(_names("random"), torch.zeros((), device=xrd.device))
        values["loss"] = torch.zeros((), device=xrd.device)
        for pool in range(n_pools):
            part = slice(pool * size, (pool + 1) * size)
            match = formula_key[part, None] == formula_key[part]
            similarity = composition[part] @ xrd[part].T
            for way, pool_similarity in zip(DIRECTIONS, (similarity, similarity.T), strict=True):
                ranks = ranks_of_matches(pool_similarity, match)
                for k in RANKS:
                    name = f"random/{way}/recall_at_{k}"
                    values[name] = values[name] + (ranks < k).float().mean() / n_pools
                logits = pool_similarity / temperature
                others = match & ~torch.eye(size, dtype=torch.bool, device=xrd.device)
                own = torch.arange(size, device=xrd.device)
                loss = F.cross_entropy(logits.masked_fill(others, float("-inf")), own)
                values["loss"] = values["loss"] + 0.5 * loss / n_pools
        values["random/pool_size"] = torch.tensor(float(size))
        values["distance"] = (composition - xrd).square().sum(dim=1).mean()
        for name, embedding in (("composition", composition), ("xrd", xrd)):
            # On the CPU, since Apple's GPUs have neither function, and the pool is small.
            pool_rows = embedding[:size].cpu()
            values[f"{name}/uniformity"] = uniformity(pool_rows).to(xrd.device)
            spread = embedding.std(dim=0, correction=0).square().mean().sqrt()
            values[f"{name}/spread"] = spread * embedding.shape[1] ** 0.5
            values[f"{name}/effective_rank"] = effective_rank(pool_rows).to(xrd.device)
        return values | self._hard(composition, xrd, formula_key, system_key)

    def _hard(
        self, composition: Tensor, xrd: Tensor, formula_key: Tensor, system_key: Tensor
    ) -> dict[str, Tensor]:
        """Recall among the materials of one chemical system.

        On the CPU, where systems are: on a GPU each of thousands would wait for its turn.
        """
        home = xrd.device
        composition, xrd, formula_key, system_key = (
            values.cpu() for values in (composition, xrd, formula_key, system_key)
        )
        order = system_key.argsort(stable=True)
        sizes = system_key[order].unique_consecutive(return_counts=True)[1]
        ranks: dict[str, list[Tensor]] = {way: [] for way in DIRECTIONS}
        chance, candidates = [], []
        for rows in order.split(sizes.tolist()):
            match = formula_key[rows, None] == formula_key[rows]
            if match.all():
                continue
            similarity = composition[rows] @ xrd[rows].T
            for way, system_similarity in zip(DIRECTIONS, (similarity, similarity.T), strict=True):
                ranks[way].append(ranks_of_matches(system_similarity, match))
            chance.append(match.float().mean(dim=1))
            candidates.append(torch.full_like(chance[-1], len(rows)))
        if not chance:
            return {}
        values = {
            f"hard/{way}/recall_at_{k}": (torch.cat(ranks[way]) < k).float().mean()
            for way in DIRECTIONS
            for k in RANKS
        }
        values["hard/queries"] = torch.tensor(float(sum(len(c) for c in chance)))
        values["hard/candidates"] = torch.cat(candidates).mean()
        values["hard/chance"] = torch.cat(chance).mean()
        return {name: value.to(home) for name, value in values.items()}

    def _sorted(self) -> tuple[Tensor, ...]:
        """All states, in a random order that depends on the materials alone, not on the ranks."""
        index = dim_zero_cat(self.index)
        order = random_keys(0, 0, index, Purpose.POOL).argsort()
        states = (self.composition, self.xrd, self.index, self.formula_key, self.system_key)
        return tuple(dim_zero_cat(state)[order] for state in states)


def _names(pool: str) -> list[str]:
    return [f"{pool}/{way}/recall_at_{k}" for way in DIRECTIONS for k in RANKS]
