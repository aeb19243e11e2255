"""Adapting to one task from Python, and the adapter that an outcome is saved as."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.adapting.data import make_job
from headstart.adapting.flow import Outcome, adapt_batch
from headstart.adapting.settings import AdaptError, Settings
from headstart.model.base import Base, load_base, load_tokenizer
from headstart.passes import passes_over
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, Task


def adapt(
    meta: MetaAdapter,
    task: Task,
    held: Sequence[Example],
    settings: Settings,
    max_length: int,
    base: Base | None = None,
    allow_base_variant: bool = False,
) -> AdaptedAdapter:
    """Adapt to one task; see `MetaAdapter.adapt`, which calls this."""
    spec = base.spec if base else meta.base
    renderer = Renderer(base.tokenizer if base else load_tokenizer(spec), max_length, spec.chat_template_kwargs)
    # the rows are looked at before the weights are loaded
    job = make_job(task, held, None, settings, renderer)
    base = base or load_base(meta.base)
    meta.require_base(base, allow_base_variant)
    with passes_over(base, meta.lora, max_length) as passes:
        outcome = adapt_batch([job], meta, passes, settings)[0]
    if outcome.failed:
        raise AdaptError(outcome.failed)
    return adapted_adapter(outcome, meta, base, max_length)


def adapted_adapter(
    outcome: Outcome, meta: MetaAdapter, base: Base, max_length: int, about: Mapping[str, Any] | None = None
) -> AdaptedAdapter:
    """The adapter of an outcome that did not fail; `about` is recorded beside where it came from."""
    task = outcome.job.task
    record = {
        "adaptation": asdict(meta.adaptation),
        "rows": len(task.examples),
        "source": dict(meta.record),
        **(about or {}),
    }
    return AdaptedAdapter(
        outcome.phi,
        meta.lora,
        base,
        instruction=task.instruction,
        labels=task.labels,
        steps=outcome.steps,
        history=outcome.losses,
        max_length=max_length,
        base_variant_of=meta.variant(base),
        record=record,
    )
