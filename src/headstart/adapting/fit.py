"""The fit: trials of one kind, step by step over one base, until each has come to its end."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headstart.adapting.store import Store
from headstart.adapting.trials import Fitted, Trial, Way
from headstart.algorithms.inner import State, moved
from headstart.algorithms.rules import Moments, per_task
from headstart.algorithms.types import Tensors
from headstart.passes import Passes, selected
from headstart.tasks.episodes import Draw

Tick = Callable[[float, str], None]
"""Called with the share of the work that is done, and a note."""


class Stopped(KeyboardInterrupt):
    """A stop was asked for; what was fitted so far is kept to go on from."""


def fit(trials: Sequence[Trial], passes: Passes, store: Store | None = None, tick: Tick = lambda *_: None) -> dict[str, Fitted]:
    """What comes of every trial, by its name; a trial that diverges fails alone.

    Args:
        trials: of any kinds; those of a kind are gone side by side.
        passes: computes them.
        store: where a long fit leaves how far it is, and goes on from.
        tick: told of progress.

    Raises:
        Stopped: the store was asked to stop; how far the fit is was left there.
    """
    kinds: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(trial.way.kind, []).append(trial)
    found: dict[str, Fitted] = {}
    for number, alike in enumerate(kinds.values()):

        def told(share: float, note: str, number: int = number) -> None:
            tick((number + share) / len(kinds), note)

        found |= _Fit(alike, passes, store or Store()).run(told)
    return {trial.name: found[trial.name] for trial in trials}


@dataclass
class _Fit:
    """Trials of one kind, all after the same number of steps; adapters stand in the order of the trials alive and their folds."""

    trials: Sequence[Trial]
    passes: Passes
    store: Store

    def __post_init__(self) -> None:
        self.digest = self.store.digest(self.trials) if self.store.folder else ""
        self.step = 0
        self.alive = list(self.trials)
        self.fitted = {trial.name: Fitted() for trial in self.trials}
        self.whole: dict[tuple[str, int], Draw] = {}
        left = self.store.load(self.digest, str(self.passes.batcher.device))
        if left:
            self._go_on_from(*left)
        else:
            self.state = State(_together([(trial.way.start, len(trial.folds)) for trial in self.alive]))
            self._rates = self._all_rates()

    def run(self, tick: Tick) -> dict[str, Fitted]:
        """Look, step, leave how far it is; until no trial is alive."""
        while self.alive:
            self._look()
            if not self.alive:
                break
            stopping = self.store.asked()
            if stopping or self.store.due:
                self.store.save(self.digest, self._tensors(), self._about())
            if stopping:
                raise Stopped
            self._advance()
            tick(self._share(), self._note())
        return self.fitted

    def _advance(self) -> None:
        """One step of every trial alive; those whose loss is no number any more fail."""
        draws = [draw for trial in self.alive for draw in self._minibatches(trial)]
        losses, gradients = self.passes.gradients(self.state.phi, draws, self._rates)
        direction, memory = self.alive[0].way.rule(self.step).direction(gradients, self._memory())
        rates = self._rates_now()
        self.state = State(moved(self.state.phi, direction, rates), memory)
        self.step += 1
        broken = []
        for trial, own in self._each(losses):
            if bool(torch.isfinite(own).all()):
                self.fitted[trial.name] = self.fitted[trial.name].stepped(own)
            else:
                broken.append(trial)
        self._fail(broken, f"its training loss is no number any more after {self.step - 1} steps; lower the rate, or look at its rows")

    def _fail(self, trials: Sequence[Trial], reason: str) -> None:
        for trial in trials:
            self.fitted[trial.name] = replace(self.fitted[trial.name], failed=reason)
        self._retire(trials)

    def _look(self) -> None:
        """Measure what is held out where it is time, keep adapters, and retire the trials that are done."""
        looking = [trial for trial in self.alive if self.step in trial.looks and any(fold.held for fold in trial.folds)]
        broken = []
        if looking:
            phi = selected(self.state.phi, self._index(looking))
            losses = iter(self.passes.losses(phi, [Draw(trial.task, (), fold.held) for trial in looking for fold in trial.folds]))
            for trial in looking:
                loss = float(torch.cat([next(losses) for _ in trial.folds]).mean())
                if math.isfinite(loss):
                    self._held(trial, loss)
                else:
                    broken.append(trial)
        self._fail(broken, f"its held-out loss is no number any more after {self.step} steps; lower the rate, or look at its rows")
        done = [trial for trial in self.alive if self._done(trial)]
        for trial in done:
            if not trial.choosing or not self.fitted[trial.name].held:
                self._keep(trial)
        self._retire(done)

    def _held(self, trial: Trial, loss: float) -> None:
        found = replace(self.fitted[trial.name], held={**self.fitted[trial.name].held, self.step: loss})
        self.fitted[trial.name] = found
        if trial.choosing and loss <= found.best:
            self._keep(trial)

    def _done(self, trial: Trial) -> bool:
        if self.step >= trial.stop:
            return True
        # a trial of one row has nothing to look at
        return trial.choosing and self.step in self.fitted[trial.name].held and self.fitted[trial.name].stale() >= trial.patience

    def _keep(self, trial: Trial) -> None:
        index = self._index([trial])
        kept = selected(self.state.phi, index)
        self.fitted[trial.name] = replace(self.fitted[trial.name], kept=kept, steps=self.step)

    def _retire(self, trials: Sequence[Trial]) -> None:
        if not trials:
            return
        left = [trial for trial in self.alive if trial not in trials]
        if left:
            index = self._index(left)
            self.state = State(selected(self.state.phi, index), _selected_memory(self.state.memory, index))
            self._rates = selected(self._rates, index)
        self.alive = left

    def _minibatches(self, trial: Trial) -> list[Draw]:
        """Each fold's rows of this step; the same object where they are all of its rows, so that their tensors are kept."""
        found: list[Draw] = []
        for number, fold in enumerate(trial.folds):
            if trial.schedule.batches == 1:
                found.append(self.whole.setdefault((trial.name, number), Draw(trial.task, (), fold.train)))
            else:
                chosen = trial.schedule.minibatch(self.step, len(fold.train))
                found.append(Draw(trial.task, (), tuple(fold.train[int(index)] for index in chosen)))
        return found

    def _memory(self) -> Moments | None:
        """What the rule remembers; nothing where another rule takes over, unless they remember alike."""
        way = self.alive[0].way
        if self.step == way.trained and type(way.first) is not type(way.after):
            return None
        return self.state.memory

    def _rates_now(self) -> dict[str, Tensor]:
        """`(T,)` or `(T, r, r)` of each tensor that adapts, at this step."""
        factors = [trial.schedule.factor(self.step) for trial in self.alive for _ in trial.folds]
        factor = torch.tensor(factors, device=self.passes.batcher.device)
        now = {name: rates[:, min(self.step, rates.shape[1] - 1)] for name, rates in self._rates.items()}
        return {name: rate * per_task(factor, rate) for name, rate in now.items()}

    def _all_rates(self) -> dict[str, Tensor]:
        """`(T, K)` or `(T, K, r, r)` of each tensor that adapts; the last rate of a shorter schedule goes on."""
        most = max(len(rate) for trial in self.alive for rate in trial.way.rates.values())
        return _together([(_lengthened(trial.way, most), len(trial.folds)) for trial in self.alive])

    def _index(self, trials: Sequence[Trial]) -> Tensor:
        """Where the adapters of trials stand."""
        names = {trial.name for trial in trials}
        found: list[int] = []
        at = 0
        for trial in self.alive:
            if trial.name in names:
                found += range(at, at + len(trial.folds))
            at += len(trial.folds)
        return torch.tensor(found, device=self.passes.batcher.device)

    def _each(self, values: Tensor) -> list[tuple[Trial, Tensor]]:
        return list(zip(self.alive, torch.split(values, [len(trial.folds) for trial in self.alive]), strict=True))

    # progress

    def _share(self) -> float:
        """The share of the steps that may be taken; what ends early counts as done."""
        most = sum(trial.stop * len(trial.folds) for trial in self.trials)
        left = sum((trial.stop - self.step) * len(trial.folds) for trial in self.alive)
        return 1 - left / most if most else 1.0

    def _note(self) -> str:
        if len(self.trials) > 1 or not self.alive:
            return f"step {self.step}"
        losses = self.fitted[self.alive[0].name].losses
        return f"step {self.step}, loss {losses[-1]:.3f}"

    # leaving off and going on

    def _tensors(self) -> dict[str, Tensor]:
        memory = self.state.memory
        groups: dict[str, Tensors] = {"phi": self.state.phi}
        if memory:
            groups |= {"first": memory.first, "second": memory.second}
        groups |= {f"kept/{number}": self.fitted[trial.name].kept for number, trial in enumerate(self.trials)}
        return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}

    def _about(self) -> dict[str, Any]:
        memory = self.state.memory
        return {
            "step": self.step,
            "alive": [trial.name for trial in self.alive],
            "moments": memory.step if memory else None,
            # a safetensors file does not keep the order, in which norms are summed
            "names": list(self.state.phi),
            "fitted": {name: asdict(replace(fitted, kept={})) for name, fitted in self.fitted.items()},
        }

    def _go_on_from(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        def group(place: str) -> dict[str, Tensor]:
            return {name: tensors[f"{place}/{name}"] for name in about["names"] if f"{place}/{name}" in tensors}

        self._rates = self._all_rates()
        ended = [trial for trial in self.alive if trial.name not in about["alive"]]
        index = self._index([trial for trial in self.alive if trial not in ended])
        self._rates = selected(self._rates, index)
        self.alive = [trial for trial in self.alive if trial not in ended]
        self.step = about["step"]
        memory = Moments(about["moments"], group("first"), group("second")) if about["moments"] is not None else None
        self.state = State(group("phi"), memory)
        for number, trial in enumerate(self.trials):
            known = about["fitted"][trial.name]
            held = {int(step): loss for step, loss in known["held"].items()}
            self.fitted[trial.name] = Fitted(group(f"kept/{number}"), known["steps"], tuple(known["losses"]), held, known["failed"])


def _together(groups: Sequence[tuple[Tensors, int]]) -> dict[str, Tensor]:
    """Tensors without task axis to `(T, ...)`, each group's so many times."""
    names = groups[0][0]
    return {
        name: torch.cat([tensors[name].detach()[None].expand(count, *tensors[name].shape) for tensors, count in groups]) for name in names
    }


def _lengthened(way: Way, count: int) -> dict[str, Tensor]:
    return {name: torch.cat([rate, rate[-1:].expand(count - len(rate), *rate.shape[1:])]) for name, rate in way.rates.items()}


def _selected_memory(memory: Moments | None, index: Tensor) -> Moments | None:
    return memory and Moments(memory.step, selected(memory.first, index), selected(memory.second, index))
