"""Distill: big CLIP teachers into small image-text models that run on a phone.

The verbs of the command line as functions: `distill.run(recipe, out)`, `distill.reinforce`, `distill.curate`, `distill.train`,
`distill.eval`, `distill.export`, `distill.profile`, `distill.report`, `distill.compare`, `distill.list`,
`distill.doctor`, `distill.devices`; recipes from `distill.load_recipe`. Nothing heavy is imported before it is used.
"""

import importlib
from typing import Any

_WHERE = {
    "run": ("distill.verbs.run", "run"),
    "reinforce": ("distill.verbs.reinforce", "reinforce"),
    "curate": ("distill.verbs.curate", "curate"),
    "train": ("distill.verbs.train", "train"),
    "eval": ("distill.verbs.evaluate", "evaluate"),
    "export": ("distill.verbs.export", "export"),
    "profile": ("distill.verbs.profile", "profile"),
    "report": ("distill.verbs.report", "report"),
    "compare": ("distill.verbs.compare", "compare"),
    "list": ("distill.verbs.listing", "list_names"),
    "doctor": ("distill.verbs.machine", "doctor"),
    "devices": ("distill.verbs.machine", "devices"),
    "load_recipe": ("distill.recipe", "load_recipe"),
    "Recipe": ("distill.recipe", "Recipe"),
    "DistillError": ("distill.core.errors", "DistillError"),
    "UsageError": ("distill.core.errors", "UsageError"),
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'distill' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
