"""Blocks: the tokens of rows, grouped so that attention computes little more than the pairs that see each other.

A row is `[shared prefix | example | example | ...]`. Its prefix is one block; every example is a block of its own, whose keys are
the prefix and itself. In a row of N examples those are some N times fewer pairs than the row's square has. Examples of like
length form a bucket and are computed together.

Shape suffixes: R rows, L tokens of a row, N members of a bucket, E tokens of a member, P tokens of the longest prefix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHARED = -1
"""The branch and leaf of tokens that every later token of their row, or of their branch, may see."""
PADDING = -2
"""The branch and leaf of the tokens that fill short rows."""
ALIKE = 0.75
"""Every member of a bucket is longer than this share of its longest, so that less than a quarter of its queries is filling."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """Members of like length, each with keys of its own: its row's prefix and itself, or itself alone where it is a prefix.

    Args:
        tokens: `(N, E)` the members' tokens, counted over all rows; 0 where a member is shorter.
        real: `(N, E)` false where a member is shorter.
        row: `(N,)` each member's row.
        visible: `(N, E, S)` whether a token sees a key; S is P + E, the prefix first, and E in the bucket of prefixes.
        ahead: `(N, E, S)` by how many positions a token is ahead of a key: what a sliding window is measured in.
    """

    tokens: Tensor
    real: Tensor
    row: Tensor
    visible: Tensor
    ahead: Tensor

    @cached_property
    def whole(self) -> bool:
        """Whether no member is filled up."""
        return bool(self.real.all())


@dataclass(frozen=True, eq=False)
class Blocks:
    """All tokens of a batch of rows in buckets; each token is a query in one member of one bucket.

    Args:
        prefix: the rows' shared prefixes, a member for each row; None where rows share nothing.
        own: the examples.
        slot: `(R * L, 4)` where each token lies in the buckets: its member, its place in the member, the member's size E, and the
            number of slots in the buckets before. Filling has the first slot of all.
        filling: `(R, L)` true for tokens that only fill rows up; None where there are none.
    """

    prefix: Bucket | None
    own: tuple[Bucket, ...]
    slot: Tensor
    filling: Tensor | None

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The prefixes, if there are any, and then the examples."""
        return (self.prefix, *self.own) if self.prefix else self.own

    @property
    def pairs(self) -> int:
        """Pairs of query and key that are computed, filling included."""
        return sum(bucket.visible.numel() for bucket in self.buckets)

    @property
    def most_keys(self) -> int:
        """Keys of the members of the widest bucket."""
        return max(bucket.visible.shape[-1] for bucket in self.buckets)

    def places(self, heads: int) -> Tensor:
        """`(R * L * heads,)`: where each head of each token lies among the buckets' results `(N, heads, E)`, all flattened."""
        member, place, size, before = self.slot.unbind(1)
        first = (before + member * size) * heads + place
        return (first[:, None] + size[:, None] * torch.arange(heads, device=first.device)).flatten()


@dataclass(frozen=True)
class _Run:
    """Tokens of one row that stand behind each other and belong to one branch."""

    row: int
    start: int
    size: int
    branch: int


def blocks_of(branch: Tensor, leaf: Tensor, positions: Tensor) -> Blocks:
    """Group the tokens of rows; all three are `(R, L)`, as in `Rows`, and the result lies where they do."""
    rows, length = branch.shape
    device, tokens = branch.device, _Tokens(leaf.cpu().flatten(), positions.cpu().flatten(), length)
    runs = list(_runs(branch.cpu()))
    shared = {run.row: run for run in runs if run.branch == SHARED}
    prefix = tokens.bucket([shared.get(row, _Run(row, 0, 0, SHARED)) for row in range(rows)]) if shared else None
    own = [tokens.bucket(members, prefix) for members in _alike([run for run in runs if run.branch >= 0])]
    slot = _slots([prefix, *own] if prefix else own, rows * length)
    filling = branch == PADDING
    return Blocks(
        _to(prefix, device) if prefix else None,
        tuple(_to(bucket, device) for bucket in own),
        slot.to(device),
        filling if bool(filling.any()) else None,
    )


def _runs(branch: Tensor) -> Iterator[_Run]:
    for row, branches in enumerate(branch):
        values, sizes = torch.unique_consecutive(branches, return_counts=True)
        starts = sizes.cumsum(0) - sizes
        yield from (_Run(row, *each) for each in zip(starts.tolist(), sizes.tolist(), values.tolist(), strict=True))


def _alike(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Runs of like length together, the longest first; within a bucket they keep their order."""
    bucket: list[_Run] = []
    for run in sorted(runs, key=lambda run: -run.size):
        if bucket and run.size <= ALIKE * bucket[0].size:
            yield sorted(bucket, key=lambda run: (run.row, run.start))
            bucket = []
        bucket.append(run)
    yield sorted(bucket, key=lambda run: (run.row, run.start))


@dataclass(frozen=True)
class _Tokens:
    leaf: Tensor
    positions: Tensor
    length: int

    def bucket(self, members: Sequence[_Run], prefix: Bucket | None = None) -> Bucket:
        row, start, size = (torch.tensor([getattr(run, name) for run in members]) for name in ("row", "start", "size"))
        place = torch.arange(int(size.max()))
        real = place < size[:, None]
        tokens = (row * self.length + start)[:, None] + place
        tokens = torch.where(real, tokens, 0)
        leaf = self.leaf[tokens]
        same = (leaf[:, None, :] == SHARED) | (leaf[:, None, :] == leaf[:, :, None])
        visible = same & (place <= place[:, None]) & real[:, None, :]
        keys = tokens
        if prefix is not None:
            before = prefix.real[row][:, None, :].expand(-1, len(place), -1)
            visible, keys = torch.cat([before, visible], 2), torch.cat([prefix.tokens[row], tokens], 1)
        ahead = self.positions[tokens][:, :, None] - self.positions[keys][:, None, :]
        return Bucket(tokens, real, row, visible & real[:, :, None], ahead)


def _slots(buckets: Sequence[Bucket], tokens: int) -> Tensor:
    slot, before = torch.zeros(tokens, 4, dtype=torch.long), 0
    slot[:, 2] = buckets[0].real.shape[1]
    for bucket in buckets:
        member, place = bucket.real.nonzero(as_tuple=True)
        size = torch.full_like(place, bucket.real.shape[1])
        slot[bucket.tokens[bucket.real]] = torch.stack([member, place, size, torch.full_like(place, before)], 1)
        before += bucket.real.numel()
    return slot


def _to(bucket: Bucket, device: torch.device) -> Bucket:
    return Bucket(*(each.to(device) for each in (bucket.tokens, bucket.real, bucket.row, bucket.visible, bucket.ahead)))
