"""headstart: learn a LoRA initialisation over many instruction tasks, so that a quantised base is fine-tuned in a few steps."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.adapter.adapted import AdaptedAdapter
    from headstart.adapter.gguf import export_gguf
    from headstart.adapter.lint import lint
    from headstart.adapter.merge import merge
    from headstart.adapter.meta_adapter import MetaAdapter
    from headstart.adapting.data import Reading
    from headstart.adapting.run import adapt_files
    from headstart.adapting.settings import Settings
    from headstart.checking.check import check
    from headstart.errors import HeadstartError
    from headstart.evaluation.run import evaluate
    from headstart.generating import generate
    from headstart.model.base import Base, BaseSpec, load_base
    from headstart.publishing import publish
    from headstart.recipe import Recipe, load_recipe
    from headstart.scoring import Metrics
    from headstart.tasks.render import Renderer
    from headstart.tasks.sources import open_suite, read_task
    from headstart.tasks.spec import SourceSpec
    from headstart.tasks.task import Example, Task, TaskSuite
    from headstart.training.run import meta_train

__all__ = [
    "AdaptedAdapter",
    "Base",
    "BaseSpec",
    "Example",
    "HeadstartError",
    "MetaAdapter",
    "Metrics",
    "Reading",
    "Recipe",
    "Renderer",
    "Settings",
    "SourceSpec",
    "Task",
    "TaskSuite",
    "adapt_files",
    "check",
    "evaluate",
    "export_gguf",
    "generate",
    "lint",
    "load_base",
    "load_recipe",
    "merge",
    "meta_train",
    "open_suite",
    "publish",
    "read_task",
]

# Imported on first use: torch, transformers and peft take seconds, which `headstart --help` need not wait for.
_HOMES = {
    "adapter.adapted": ("AdaptedAdapter",),
    "adapter.gguf": ("export_gguf",),
    "adapter.lint": ("lint",),
    "adapter.merge": ("merge",),
    "adapter.meta_adapter": ("MetaAdapter",),
    "adapting.data": ("Reading",),
    "adapting.run": ("adapt_files",),
    "adapting.settings": ("Settings",),
    "checking.check": ("check",),
    "errors": ("HeadstartError",),
    "evaluation.run": ("evaluate",),
    "generating": ("generate",),
    "model.base": ("Base", "BaseSpec", "load_base"),
    "publishing": ("publish",),
    "recipe": ("Recipe", "load_recipe"),
    "scoring": ("Metrics",),
    "tasks.render": ("Renderer",),
    "tasks.spec": ("SourceSpec",),
    "tasks.sources": ("open_suite", "read_task"),
    "tasks.task": ("Example", "Task", "TaskSuite"),
    "training.run": ("meta_train",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"headstart.{home}"), name)
    raise AttributeError(f"module 'headstart' has no attribute {name!r}")
