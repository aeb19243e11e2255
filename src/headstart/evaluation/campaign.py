"""Running an evaluation's arms over one loaded base; what was measured before is not measured again."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from headstart.algorithms.inner import expand
from headstart.batches import Batcher
from headstart.evaluation.arms import CONSTANT, PROMPTED, SEEDLESS, Arm, opened
from headstart.evaluation.contenders import CONTROLS, Contender
from headstart.evaluation.drift import Drift, DriftText
from headstart.evaluation.kept import Kept
from headstart.evaluation.measuring import most_new_tokens
from headstart.evaluation.pace import Pace, Prediction, candidates, in_hours
from headstart.evaluation.plan import Condition, Plan
from headstart.evaluation.protocol import Bench, run_piece
from headstart.evaluation.records import Record
from headstart.evaluation.tuning import Grid, choose, tune
from headstart.interrupt import Interrupt
from headstart.model.base import Base
from headstart.model.learner import Learner
from headstart.passes import Passes
from headstart.progress import Meter
from headstart.tasks.episodes import Episode
from headstart.tasks.render import Renderer


class Stopped(KeyboardInterrupt):
    """A stop was asked for; what was measured is kept, and the same command goes on."""


@dataclass
class Campaign:
    """What runs a plan.

    Args:
        plan: what is to be done.
        bench: what it is done on.
        kept: what was done before, and is done now.
        interrupt: whether a stop was asked for.
        predictions: setting -> what it takes.
        whole: predicted seconds of all that the plan holds.
        done: of what is done.
        progress: hears of it.
    """

    plan: Plan
    bench: Bench
    kept: Kept
    interrupt: Interrupt
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    whole: float = 0.0
    done: float = 0.0
    progress: Meter | None = None
    _pieces: dict[str, dict[int, list[Episode]]] = field(default_factory=dict)
    _mark: dict[str, float] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, plan: Plan, base: Base, kept: Kept, interrupt: Interrupt) -> Iterator["Campaign"]:
        """Over a loaded base, which has sites until the end of the block; its passes are timed first."""
        with Learner(base, plan.contenders[0].meta.lora) as learner:
            campaign = cls(plan, _bench(plan, base, learner, interrupt), kept, interrupt)
            campaign._predict()
            yield campaign

    def _predict(self) -> None:
        passes = self.bench.passes
        piece = self.pieces(self.plan.conditions[0], 0)[0]
        pace = Pace.of(passes, expand(passes.learner.fresh_adapter(0), len(piece)), piece)
        for each in self.plan.conditions:
            pieces = {draw: self.pieces(each, draw) for draw in range(each.protocol.draws)}
            self.predictions = {
                **self.predictions,
                each.setting.key: Prediction.of(pace, each.validation, pieces, each.protocol, self.plan.section, passes),
            }
        self.whole = sum(cost for _, cost, _ in self._works())
        self.done = sum(cost for _, cost, is_done in self._works() if is_done)

    def told(self) -> str:
        """How long it will take, in one line."""
        tuning, measuring = (sum(cost for kind, cost, _ in self._works() if kind == wanted) for wanted in ("tuning", "measuring"))
        kept = f"; {in_hours(self.done)} of it were done before" if self.done else ""
        return (
            f"predicted: {in_hours(tuning + measuring)} on this machine, {in_hours(tuning)} for tuning and {in_hours(measuring)} for "
            f"measuring{kept}; Ctrl-C stops it, and the same command goes on"
        )

    def _works(self) -> Iterator[tuple[str, float, bool]]:
        """What the plan holds, as `_works_of` tells it."""
        for condition in self.plan.conditions:
            for name in self.plan.arms:
                yield from self._works_of(name, condition)

    def _works_of(self, name: str, condition: Condition) -> Iterator[tuple[str, float, bool]]:
        """What an arm takes in a setting: tuning or measuring, its predicted seconds, and whether it was done before."""
        key, predicted = condition.setting.key, self.predictions[condition.setting.key]
        if self._tunes(name, condition):
            yield "tuning", predicted.tuning * len(self._runs(name)), (key, self._label(name)) in self.kept.grids
        for contender in self._runs(name):
            for draw in self._draws(name, condition):
                for piece in self.pieces(condition, draw):
                    is_done = self.kept.has(key, self._label(name), contender.seed, draw, _names(piece))
                    yield "measuring", self._cost(name, piece, condition), is_done

    def _is_done(self, name: str, condition: Condition) -> bool:
        return all(is_done for *_, is_done in self._works_of(name, condition))

    @staticmethod
    def _tunes(name: str, condition: Condition) -> bool:
        """Whether an arm has something to tune in a setting."""
        return name not in CONSTANT and bool(condition.protocol.horizons)

    def _cost(self, name: str, piece: Episode, condition: Condition) -> float:
        """Predicted seconds of measuring a piece."""
        predicted = self.predictions[condition.setting.key]
        drawn = condition.protocol.draws * len(condition.measured)
        return (predicted.constant if name in CONSTANT else predicted.measuring) * len(piece) / drawn

    def pieces(self, condition: Condition, draw: int) -> list[Episode]:
        """The measured tasks under a draw, in pieces that are computed together."""
        drawn = self._pieces.setdefault(condition.setting.key, {})
        if draw not in drawn:
            drawn[draw] = list(self.bench.passes.batcher.pieces(condition.protocol.episode(condition.measured, draw)))
        return drawn[draw]

    def run(self, progress: Meter) -> None:
        """Tune and measure every arm in every setting.

        Raises:
            Stopped: a stop was asked for; what was measured is kept.
        """
        self.progress = progress
        self._mark = {"flops": 0, "tokens": 0, "seconds": 0}
        # what timing took is no part of it
        self._spent()
        for condition in self.plan.conditions:
            for name in self.plan.arms:
                if self._is_done(name, condition):
                    continue
                with ExitStack() as stack:
                    self._run_arm([stack.enter_context(self._opened(name, one)) for one in self._runs(name)], condition)
        progress.advance(1.0)

    def _runs(self, name: str) -> Sequence[Contender]:
        """The contenders that an arm is run under: of arms that draw nothing by a seed, the first."""
        return self.plan.contenders[:1] if name in SEEDLESS else self.plan.contenders

    def _draws(self, name: str, condition: Condition) -> range:
        """The draws that an arm is run under: only the first of one that sees no support example."""
        return range(1 if name in CONSTANT and name != PROMPTED else condition.protocol.draws)

    def _opened(self, name: str, contender: Contender) -> AbstractContextManager[Arm]:
        passes = self.bench.passes
        return opened(name, contender, passes.learner, passes.batcher, self.plan.section)

    def _run_arm(self, arms: Sequence[Arm], condition: Condition) -> None:
        """One arm under its seeds: tuned over all of them, then measured under each."""
        chosen = choose(self._tuned(arms, condition)) if self._tunes(arms[0].name, condition) else {}
        key, label = condition.setting.key, self._label(arms[0].name)
        for arm in arms:
            for draw in self._draws(arm.name, condition):
                for piece in self.pieces(condition, draw):
                    if self.kept.has(key, label, arm.seed, draw, _names(piece)):
                        continue
                    self.bench.heed()
                    gone = run_piece(arm, chosen, draw, piece, condition.protocol, self.bench)
                    self.kept.add(key, label, gone, self._spent())
                    self._tell(self._cost(arm.name, piece, condition), f"{key}: {arm.name}")

    def _tuned(self, arms: Sequence[Arm], condition: Condition) -> Grid:
        key, name = condition.setting.key, arms[0].name
        if (key, self._label(name)) not in self.kept.grids:
            predicted, protocol = self.predictions[key].tuning, condition.protocol
            share = predicted / candidates(self.plan.section) / len(condition.validation.tasks)

            def told(piece: Episode, steps: int) -> None:
                self._tell(share * len(piece) * steps / max(protocol.horizons), f"{key}: tuning {name}")

            self.kept.add_grid(key, self._label(name), tune(arms, condition.validation, protocol, self.bench, told), self._spent())
        return self.kept.grids[key, self._label(name)]

    def _label(self, name: str) -> str:
        """What an arm's numbers are kept under: a control that was trained anew has none yet."""
        if name not in CONTROLS:
            return name
        return f"{name} {' '.join(contender.digests[name] for contender in self.plan.contenders)}"

    def _spent(self) -> dict[str, float]:
        """What was spent since this was last asked."""
        learner = self.bench.passes.learner
        now = {"flops": learner.flops, "tokens": learner.tokens, "seconds": time.monotonic()}
        before, self._mark = self._mark, now
        return {name: value - before[name] for name, value in now.items()}

    def _tell(self, seconds: float, note: str) -> None:
        self.done += seconds
        if self.progress:
            # short of the end, which only the end itself reports
            self.progress.advance(min(self.done / self.whole, 0.99), note)

    def grids(self, condition: Condition) -> dict[str, Grid]:
        """Arm -> what tuning it found in a setting."""
        tuned = [name for name in self.plan.arms if self._tunes(name, condition)]
        return {name: self.kept.grids[condition.setting.key, self._label(name)] for name in tuned}

    def spent(self) -> dict[str, float]:
        """What the plan's tuning and measuring took, in this process and before."""
        keys = [(condition.setting.key, self._label(name)) for condition in self.plan.conditions for name in self.plan.arms]
        found = [self.kept.spent[key] for key in keys if key in self.kept.spent]
        return {name: sum(each[name] for each in found) for name in ("flops", "tokens", "seconds")}

    def records(self, condition: Condition) -> list[Record]:
        """All records of a setting, arm by arm; an arm that draws nothing counts under every seed, and every draw if it sees none."""
        found: list[Record] = []
        for name in self.plan.arms:
            own = self.kept.of(condition.setting.key, self._label(name))
            seeds = self.plan.seeds if name in SEEDLESS else None
            draws = range(condition.protocol.draws) if len(self._draws(name, condition)) < condition.protocol.draws else None
            found += [
                replace(record, seed=seed, draw=draw)
                for record in own
                for seed in (seeds or [record.seed])
                for draw in (draws or [record.draw])
            ]
        return found


def _names(piece: Episode) -> list[str]:
    return [part.task.name for part in piece]


def _bench(plan: Plan, base: Base, learner: Learner, interrupt: Interrupt) -> Bench:
    rows, longest = plan.recipe.suite, plan.section.icl_max_length

    def passes(renderer: Renderer, most_row_tokens: int) -> Passes:
        return Passes(learner, Batcher.of(base, renderer, rows.layout, rows.task_micro_batch, most_row_tokens))

    plain = passes(plan.renderer, rows.max_row_tokens)
    room = getattr(base.model.config.get_text_config(), "max_position_embeddings", None) or longest
    prompting = plain
    if PROMPTED in plan.arms:
        most = max(min(longest, room - _written(plan)), plan.renderer.max_length)
        prompting = passes(Renderer(base.tokenizer, most, base.spec.chat_template_kwargs), max(rows.max_row_tokens, most))
    tokens = plan.section.drift_tokens
    drift = Drift(learner, DriftText.of(base, plain.batcher, tokens)) if tokens else None
    if drift and any(condition.protocol.drift_step is not None for condition in plan.conditions):
        # now, as some arms alter the base
        _ = drift.bare

    def heed() -> None:
        if interrupt.asked:
            raise Stopped

    return Bench(plain, prompting, drift, heed)


def _written(plan: Plan) -> int:
    """The most tokens that may be written behind any prompt."""
    draws = [part for condition in plan.conditions for part in condition.protocol.episode(condition.measured, 0)]
    return max(most_new_tokens(part, plan.renderer) for part in draws)
