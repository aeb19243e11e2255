"""What autograd holds for a way back, in bytes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks


class SavedBytes:
    """Counts what autograd holds for a way back while it is entered; tangents count with what they are of.

    Args:
        without: tensors whose memory is there anyway.

    `peak` is the most bytes held at once.
    """

    def __init__(self, without: Sequence[Tensor]) -> None:
        self.peak = self._now = 0
        self._holders: dict[int, int] = {}
        self._without = {_place(tensor) for tensor in without}
        self._hooks = saved_tensors_hooks(partial(_Saved, self), _Saved.tensor)

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._hooks.__exit__(*raised)

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor that was saved, its memory once."""
        place = _place(tensor)
        if place not in self._without:
            if place not in self._holders:
                self._now += tensor.untyped_storage().nbytes()
                self.peak = max(self.peak, self._now)
            self._holders[place] = self._holders.get(place, 0) + 1

    def let_go(self, tensor: Tensor) -> None:
        """Count a tensor that is saved no more."""
        place = _place(tensor)
        if place not in self._without:
            self._holders[place] -= 1
            if not self._holders[place]:
                del self._holders[place]
                self._now -= tensor.untyped_storage().nbytes()


class _Saved:
    """One saved tensor, until autograd lets it go; without its graph, since one that is held by what it holds would stay for ever."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        primal, tangent = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
        self.counter, self.primal, self.tangent = counter, primal.detach(), None if tangent is None else tangent.detach()
        for each in self._parts():
            counter.hold(each)

    def __del__(self) -> None:
        for each in self._parts():
            self.counter.let_go(each)

    def _parts(self) -> list[Tensor]:
        return [self.primal] if self.tangent is None else [self.primal, self.tangent]

    def tensor(self) -> Tensor:
        return self.primal if self.tangent is None else forward_ad.make_dual(self.primal, self.tangent)  # type: ignore[no-untyped-call, no-any-return]


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
