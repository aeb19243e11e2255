"""The design of an evaluation: what is measured under which conditions, from the recipe, a tier and the user's options."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headstart.evaluation.contenders import Contender
from headstart.evaluation.errors import EvaluationError
from headstart.recipe import EvaluationSection, Recipe, apply_override, parse_recipe
from headstart.tasks.regimes import Regime

VALIDATION, TEST = "meta_validation", "meta_test"
PRIMARY_STEP, PRIMARY_SHOTS = 10, 16
PRIMARY_PAIR = ("meta_adamw", "multitask")
PAIRS = (
    PRIMARY_PAIR,
    ("meta", "multitask"),
    ("meta", "multitask_rates"),
    ("multitask_rates", "multitask"),
    ("meta", "meta_adamw"),
    ("meta_adamw", "random"),
    ("meta", "random"),
    ("multitask", "random"),
    ("meta", "icl"),
    ("meta_adamw", "eva"),
)
"""First minus second, where both were measured."""
TIERS: dict[str, dict[str, Any]] = {
    "quick": {
        "support": 16,
        "query": 12,
        "steps": [0, 1, 2, 5, 10],
        "horizons": [10],
        "draws": 1,
        "regimes": ["instructed", "house_rules"],
        "arms": None,
        "tasks": 8,
        "tuning_tasks": 2,
        "drift_tokens": 1024,
    },
    "standard": {
        "support": [4, 16],
        "query": 32,
        "steps": [0, 1, 2, 5, 10, 20, 50],
        "horizons": [5, 10, 50],
        "draws": 2,
        "regimes": ["instructed", "house_rules"],
        "arms": None,
        "tasks": 24,
        "tuning_tasks": 8,
        "drift_tokens": 8192,
    },
    "full": {
        "support": [4, 16, 64, 256],
        "query": 64,
        "steps": [0, 1, 2, 5, 10, 20, 50, 100],
        "horizons": [5, 10, 50],
        "draws": 3,
        "regimes": ["instructed", "house_rules"],
        "arms": ["zero_shot", "icl", "random", "eva", "multitask", "multitask_rates", "meta_adamw", "meta"],
        "tasks": None,
        "tuning_tasks": 12,
        "drift_tokens": 20000,
        "icl_max_length": 8192,
    },
}
"""Tier -> the evaluation section's keys that it fixes; options and overrides come after it."""


@dataclass(frozen=True)
class Setting:
    """One condition that all arms are compared under.

    Args:
        regime: how tasks are given.
        k: the shots.
    """

    regime: Regime
    k: int

    @property
    def key(self) -> str:
        """Its name in records of tuning."""
        return f"{self.regime}/{self.k}"


def recorded_recipe(contender: Contender, tier: str | None, options: dict[str, Any], overrides: Sequence[str]) -> Recipe:
    """The recipe that an adapter was trained by, with its evaluation section as it is wanted now.

    Args:
        contender: whose recipe it is.
        tier: of `TIERS`, whose values replace the recipe's.
        options: keys of the evaluation section that replace the tier's.
        overrides: `evaluation.a=value`, over all of these.

    Raises:
        EvaluationError: an unknown tier, or an override of another section, which cannot be changed any more.
        RecipeError: an option or override that does not fit, or a record without a usable recipe.
    """
    if tier is not None and tier not in TIERS:
        raise EvaluationError(f"unknown tier {tier!r}; there are {', '.join(TIERS)}")
    content = copy.deepcopy(dict(contender.meta.record.get("recipe") or {}))
    content["evaluation"] = {**content.get("evaluation", {}), **(TIERS[tier] if tier else {}), **options}
    for text in overrides:
        if not text.startswith("evaluation."):
            raise EvaluationError(f"override {text!r}: the adapter is trained; only evaluation.KEY=VALUE can be changed here")
        apply_override(content, text)
    recipe = parse_recipe(content, f"{contender.folder}/headstart.json: record.recipe")
    require_equal_tries(recipe.evaluation)
    return recipe


def require_equal_tries(section: EvaluationSection) -> None:
    """See that every arm has as many candidates.

    Raises:
        EvaluationError: those with one rate have more or fewer than those with learned ones.
    """
    rates, factors = len(section.learning_rates), len(section.rate_factors)
    if rates != factors:
        raise EvaluationError(
            f"evaluation.learning_rates has {rates} candidates and evaluation.rate_factors {factors}; give as many of both, so that "
            "every arm has as many tries"
        )


def settings(section: EvaluationSection) -> list[Setting]:
    """All conditions, regime by regime."""
    return [Setting(regime, k) for regime in dict.fromkeys(section.regimes) for k in section.shots]


def primary_setting(section: EvaluationSection) -> Setting:
    """The one that the headline is of: the first regime, 16 shots if they are among those asked for."""
    return Setting(section.regimes[0], PRIMARY_SHOTS if PRIMARY_SHOTS in section.shots else section.shots[0])


def primary_step(steps: Sequence[int]) -> int:
    """The step that the headline is of: 10, or the last before it, or else the first; step 0 where no other is measured."""
    taken = [step for step in steps if step > 0] or list(steps)
    return max((step for step in taken if step <= PRIMARY_STEP), default=min(taken))


def tuned_horizons(section: EvaluationSection) -> tuple[int, ...]:
    """The numbers of steps that rates are tuned for: the section's up to the last step, and that step where the next is beyond it."""
    last = max(section.steps)
    within = sorted({horizon for horizon in section.horizons if horizon <= last})
    beyond = last > 0 and (not within or (within[-1] < last and max(section.horizons) > last))
    return (*within, last) if beyond else tuple(within)


def horizon_of(step: int, horizons: Sequence[int]) -> int:
    """The horizon whose run a step is read off: the next at or past it, or the last."""
    return min((horizon for horizon in horizons if horizon >= step), default=max(horizons))
