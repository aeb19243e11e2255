"""The plan of an evaluation: all that it needs, read and checked before the base is loaded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from headstart.errors import HeadstartError
from headstart.evaluation.arms import choose_arms
from headstart.evaluation.contenders import Contender
from headstart.evaluation.design import (
    TEST,
    VALIDATION,
    Setting,
    primary_setting,
    primary_step,
    recorded_recipe,
    settings,
    tuned_horizons,
)
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.protocol import Protocol
from headstart.evaluation.relatives import copies, near_relatives
from headstart.evaluation.report.view import count
from headstart.evaluation.tuning import ValidationTasks
from headstart.model.base import Base, BaseSpec, load_tokenizer
from headstart.recipe import EvaluationSection, Recipe
from headstart.tasks.prepare import prepare_suite, spread
from headstart.tasks.regimes import Regime
from headstart.tasks.render import Renderer
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Task, TaskSuite

Quantization = Literal["none", "nf4"]
FEWEST = 2
"""Examples of a task that has a support and a query half at all."""
LEAST_QUERY = 12
"""A task is measured on so many query examples, or as many as are asked for; one that has fewer is left out."""


@dataclass(frozen=True)
class Condition:
    """What is measured in one setting.

    Args:
        setting: regime and shots.
        protocol: steps, horizons, draws.
        validation: the tasks that rates are tuned on.
        measured: the tasks that are measured on.
    """

    setting: Setting
    protocol: Protocol
    validation: ValidationTasks
    measured: tuple[Task, ...]


@dataclass(frozen=True)
class Wishes:
    """What a user asks for.

    Args:
        suite: `builtin`, a folder or a dataset's id; the one that was trained on where None.
        split: the split to measure on.
        tier: of `TIERS`.
        options: keys of the evaluation section.
        overrides: `evaluation.a=value`.
        base_source: where the base's weights come from; what the adapter says where None.
        quantization: how the base is loaded; as in training where None.
        final: whether a look at the test split is meant.
    """

    suite: str | None = None
    split: str = VALIDATION
    tier: str | None = None
    options: Mapping[str, Any] | None = None
    overrides: Sequence[str] = ()
    base_source: str | None = None
    quantization: Quantization | None = None
    final: bool = False

    @property
    def names_arms(self) -> bool:
        """Whether arms are named, and not left to the tier or the recipe."""
        return "arms" in (self.options or {}) or any(each.startswith("evaluation.arms") for each in self.overrides)


@dataclass(frozen=True)
class Plan:
    """All that an evaluation needs.

    Args:
        contenders: one a training seed.
        base: as it will be loaded.
        recipe: the contenders' own, with the evaluation section as it is wanted.
        wishes: what the user asked for.
        arms: that are run.
        skipped: arms that are not -> why.
        suite: with the tasks as they are, whatever they are measured under.
        conditions: one a setting.
        training: the tasks that the adapters were trained on, as far as they are at hand.
        renderer: for prompts without examples.
        notes: what a reader of the results should know.
    """

    contenders: tuple[Contender, ...]
    base: BaseSpec
    recipe: Recipe
    wishes: Wishes
    arms: tuple[str, ...]
    skipped: Mapping[str, str]
    suite: TaskSuite
    conditions: tuple[Condition, ...]
    training: tuple[Task, ...]
    renderer: Renderer
    notes: tuple[str, ...]

    @classmethod
    def make(cls, contenders: Sequence[Contender], wishes: Wishes) -> "Plan":
        """Read the suite and choose arms and tasks.

        Raises:
            EvaluationError: an option does not fit, an arm cannot be run, nothing is left to measure on, or a look at the test split
                was not meant.
            SuiteError, BaseError, RecipeError: the suite, the base's tokenizer or the record cannot be used.
        """
        meta = contenders[0].meta
        recipe = recorded_recipe(contenders[0], wishes.tier, dict(wishes.options or {}), wishes.overrides)
        require_final(wishes)
        base = replace(meta.base, source=wishes.base_source or meta.base.source, quantization=wishes.quantization or meta.base.quantization)
        arms, skipped = choose_arms(recipe.evaluation.arms, contenders, base, wishes.names_arms)
        longest = recipe.evaluation.max_length or recipe.suite.max_length
        renderer = Renderer(load_tokenizer(base), longest, base.chat_template_kwargs)
        sources = (SourceSpec(wishes.suite),) if wishes.suite else recipe.suite.specs
        reading = _Reading(sources, recipe.evaluation, renderer)
        suites: dict[Regime, TaskSuite] = {regime: reading.suite(regime) for regime in dict.fromkeys(recipe.evaluation.regimes)}
        conditions, notes = _conditions(suites, recipe.evaluation, wishes.split)
        suite = suites.get("instructed") or reading.suite("instructed")
        training, lacking = _trained_on(recipe, reading, suite, contenders[0])
        for condition in conditions:
            require_unseen((*condition.measured, *condition.validation.tasks), suite, wishes.split, contenders)
        asked = {task.name for condition in conditions for task in condition.measured}
        require_uncopied([task for task in suite.tasks.values() if task.name in asked], training)
        return cls(tuple(contenders), base, recipe, wishes, arms, skipped, suite, conditions, training, renderer, (*notes, *lacking))

    @property
    def section(self) -> EvaluationSection:
        """The recipe's evaluation section."""
        return self.recipe.evaluation

    @property
    def seeds(self) -> list[int]:
        """The training seeds."""
        return [contender.seed for contender in self.contenders]

    @property
    def primary(self) -> Condition:
        """The condition that the headline is of, or where that has no tasks, the first."""
        wanted = primary_setting(self.section)
        return next((one for one in self.conditions if one.setting == wanted), self.conditions[0])

    def facts(self) -> dict[str, dict[str, Any]]:
        """What there is to know of every measured task, by its name; `headroom` comes with the records."""
        measured = {task.name: task for condition in self.conditions for task in condition.measured}
        tasks = {name: self.suite.tasks.get(name, task) for name, task in measured.items()}
        relatives = near_relatives(list(tasks.values()), self.training)
        return {name: {**_facts(task, self.section.query), "relatives": list(relatives.get(name, ()))} for name, task in tasks.items()}

    def headline(self) -> str:
        """What is about to be compared, in one line."""
        tasks = {task.name: task.cluster for condition in self.conditions for task in condition.measured}
        tuned = max(len(condition.validation.tasks) for condition in self.conditions)
        under = ", ".join(condition.setting.key for condition in self.conditions)
        return (
            f"{', '.join(self.arms)} on {count(len(tasks), 'task')} in {count(len(set(tasks.values())), 'cluster')} of "
            f"{self.wishes.split} of {self.suite.name} ({under} shots), rates tuned on {count(tuned, 'task')} of {VALIDATION}"
        )


@dataclass(frozen=True)
class _Reading:
    """How the suite is read.

    Args:
        sources: where it lies.
        section: what is wanted of it.
        renderer: renders it.
    """

    sources: Sequence[SourceSpec]
    section: EvaluationSection
    renderer: Renderer

    def up_to(self, max_length: int) -> "_Reading":
        """The same with examples of so many tokens, where that is more."""
        if max_length <= self.renderer.max_length:
            return self
        return replace(self, renderer=Renderer(self.renderer.tokenizer, max_length, self.renderer.template_kwargs))

    def suite(self, regime: Regime) -> TaskSuite:
        """The suite under a regime; its codes go by the evaluation's seed, so that they are the same for every arm and training seed."""
        return prepare_suite(self.sources, regime, self.renderer, FEWEST, self.section.seed)[0]


def _conditions(suites: Mapping[Regime, TaskSuite], section: EvaluationSection, split: str) -> tuple[tuple[Condition, ...], list[str]]:
    """The conditions that have tasks to measure on, and a note for those that have none.

    Raises:
        EvaluationError: none has.
    """
    found, notes = [], []
    for setting in settings(section):
        suite = suites[setting.regime]
        few = [each for each in (split, VALIDATION) if not _enough(suite.split(each), setting, section.query)]
        if few:
            notes.append(f"{setting.key} left out: no task of {few[0]} has {setting.k} support and {_least(section.query)} query examples")
            continue
        validation = ValidationTasks(suite, section.tuning_tasks, setting)
        left = [task for task in _enough(suite.split(split), setting, section.query) if task.name not in validation.names]
        if not left:
            raise EvaluationError(
                f"no task of {split!r} is left to measure on: all of them tune rates; lower evaluation.tuning_tasks, or measure on another "
                "split"
            )
        found.append(Condition(setting, _protocol(setting, section), validation, spread(left, section.tasks)))
    if not found:
        raise EvaluationError(f"{notes[0]}; lower --shots or evaluation.query")
    if split == VALIDATION:
        notes.append(
            f"measured on {VALIDATION}: rates were tuned on other tasks of the same clusters, for every arm alike, and training may have "
            "chosen its checkpoint or trial by these tasks"
        )
    return _drifting(found, section), notes


def _drifting(conditions: Sequence[Condition], section: EvaluationSection) -> tuple[Condition, ...]:
    """With drift at the primary step of the primary number of shots alone: it asks much, and differs little between them."""
    steps = conditions[0].protocol.steps
    if not section.drift_tokens or max(steps) == 0:
        return tuple(conditions)
    wanted = primary_setting(section).k
    k = wanted if any(each.setting.k == wanted for each in conditions) else conditions[0].setting.k
    return tuple(
        replace(each, protocol=replace(each.protocol, drift_step=primary_step(steps))) if each.setting.k == k else each
        for each in conditions
    )


def _enough(tasks: Sequence[Task], setting: Setting, query: int) -> list[Task]:
    return [task for task in tasks if len(task.support_pool) >= setting.k and len(task.query_pool) >= _least(query)]


def _least(query: int) -> int:
    return min(LEAST_QUERY, query)


def _protocol(setting: Setting, section: EvaluationSection) -> Protocol:
    steps = tuple(sorted(set(section.steps)))
    return Protocol(setting, section.query, steps, tuned_horizons(section), section.draws, section.seed)


def _facts(task: Task, query: int) -> dict[str, Any]:
    outputs = [example.output for example in task.query_pool[:query]]
    return {
        "cluster": task.cluster,
        "dataset": task.dataset,
        "kind": "classification" if task.labels else "generation",
        "query": len(outputs),
        "majority": Counter(outputs).most_common(1)[0][1] / len(outputs),
    }


def require_final(wishes: Wishes) -> None:
    """See that a look at the test split is meant.

    Raises:
        EvaluationError: it is asked for without `final`, or `final` without it.
    """
    if wishes.split == TEST and not wishes.final:
        raise EvaluationError(
            f"{TEST} is looked at when all is decided, and every look is written down: develop on {VALIDATION}, and add --final "
            "(in Python final=True) for the look that counts"
        )
    if wishes.final and wishes.split != TEST:
        raise EvaluationError(f"--final is for {TEST}, and the split is {wishes.split!r}; leave it out, or give --split {TEST}")


def require_positions(plan: Plan, base: Base) -> None:
    """See that the base has positions for the longest examples that are asked for.

    Raises:
        EvaluationError: it has fewer.
    """
    most, longest = getattr(base.model.config.get_text_config(), "max_position_embeddings", None), plan.section.max_length
    if longest and most and longest > most:
        raise EvaluationError(f"evaluation.max_length is {longest}, but {base.spec.id} has positions for {most} tokens; lower it")


def require_unseen(measured: Sequence[Task], suite: TaskSuite, split: str, contenders: Sequence[Contender]) -> None:
    """See that no adapter was trained on a measured task.

    Raises:
        EvaluationError: one was.
    """
    for contender in contenders:
        trained = contender.meta.record.get("suite", {})
        seen = set(trained.get("splits", {}).get("meta_train", ())) if trained.get("name") == suite.name else set()
        stray = sorted(name for task in measured for name in {task.name, f"{task.name}@house_rules"} & seen)
        if stray:
            raise EvaluationError(
                f"{contender.folder} was trained on {len(stray)} of the tasks of {split!r}, such as {stray[0]!r}; measure on a held-out "
                "split"
            )


def require_uncopied(measured: Sequence[Task], training: Sequence[Task]) -> None:
    """See that no measured task stands in what was trained on, under whatever name.

    Raises:
        EvaluationError: half or more of one's rows do.
    """
    found = copies(measured, training)
    if found:
        raise EvaluationError(f"{len(found)} of the tasks were trained on under other names: {found[0]}")


def _trained_on(recipe: Recipe, reading: _Reading, suite: TaskSuite, contender: Contender) -> tuple[tuple[Task, ...], list[str]]:
    """The tasks that a contender was trained on, or none and a note where they are not at hand.

    None of their examples is missing because it would be too long to be measured on.
    """
    trained, longer = contender.meta.record.get("suite", {}), reading.up_to(recipe.suite.max_length)
    if trained.get("name") == suite.name:
        changed = trained.get("revision") != suite.revision
        note = f"the suite has changed since training: revision {trained.get('revision')} then, {suite.revision} now"
        every = suite if longer is reading else longer.suite("instructed")
        return every.split("meta_train"), [note] if changed else []
    try:
        own, _ = prepare_suite(recipe.suite.specs, "instructed", longer.renderer, 1, recipe.seed)
    except HeadstartError as error:
        return (), [f"near relatives of the measured tasks were not looked for, as the suite that was trained on is not at hand: {error}"]
    return own.split("meta_train"), []
