"""Distill: big CLIP teachers into small image-text models that run on a phone.

The verbs of the command line are functions of the same names and arguments: `distill.run(teacher="dfn-vitl14",
student="mci2", data="./photos")`. They return frozen results with `.to_json()`. `load_teacher`, `load_student`,
`open_source` and `ReinforcedData` are for work on the parts.

What is named in `__all__` is stable: it changes with a version and a line in the changelog. Everything else may change.
Nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

from distill.core.packages.siblings import refuse_intruders

refuse_intruders()

if TYPE_CHECKING:
    from distill.core.errors import DistillError, OutputExistsError, UsageError
    from distill.core.torch_compat import ensure_torchvision
    from distill.recipe import Recipe, load_recipe
    from distill.verbs.calibrate import calibrate
    from distill.verbs.choose import choose
    from distill.verbs.compare import compare
    from distill.verbs.curate import curate
    from distill.verbs.demo import demo
    from distill.verbs.evaluate import evaluate as eval
    from distill.verbs.export import export
    from distill.verbs.lint import lint
    from distill.verbs.listing import list_names as list
    from distill.verbs.load import load_student, load_teacher
    from distill.verbs.machine import devices, doctor
    from distill.verbs.plan import plan
    from distill.verbs.predict import predict
    from distill.verbs.profile import profile
    from distill.verbs.push import push
    from distill.verbs.reinforce import reinforce
    from distill.verbs.report import report
    from distill.verbs.run import run
    from distill.verbs.train import train
    from reinforced_data.sample import Batch
    from reinforced_data.source import open_source
    from reinforced_data.store.reader import ReinforcedData

    __version__: str

__all__ = [
    "Batch",
    "DistillError",
    "OutputExistsError",
    "Recipe",
    "ReinforcedData",
    "UsageError",
    "__version__",
    "calibrate",
    "choose",
    "compare",
    "curate",
    "demo",
    "devices",
    "doctor",
    "ensure_torchvision",
    "eval",
    "export",
    "lint",
    "list",
    "load_recipe",
    "load_student",
    "load_teacher",
    "open_source",
    "plan",
    "predict",
    "profile",
    "push",
    "reinforce",
    "report",
    "run",
    "train",
]

# Name -> module and name there, where they differ from distill.verbs.<name>.<name>.
_ELSEWHERE = {
    "Batch": ("reinforced_data.sample", "Batch"),
    "DistillError": ("distill.core.errors", "DistillError"),
    "OutputExistsError": ("distill.core.errors", "OutputExistsError"),
    "Recipe": ("distill.recipe", "Recipe"),
    "ReinforcedData": ("reinforced_data.store.reader", "ReinforcedData"),
    "UsageError": ("distill.core.errors", "UsageError"),
    "devices": ("distill.verbs.machine", "devices"),
    "doctor": ("distill.verbs.machine", "doctor"),
    "ensure_torchvision": ("distill.core.torch_compat", "ensure_torchvision"),
    "eval": ("distill.verbs.evaluate", "evaluate"),
    "list": ("distill.verbs.listing", "list_names"),
    "load_recipe": ("distill.recipe", "load_recipe"),
    "load_student": ("distill.verbs.load", "load_student"),
    "load_teacher": ("distill.verbs.load", "load_teacher"),
    "open_source": ("reinforced_data.source", "open_source"),
}

if not TYPE_CHECKING:  # a type checker that saw it would take every name for a known one

    def __getattr__(name: str) -> Any:
        import importlib

        if name == "__version__":
            from importlib.metadata import version

            return version("distill-edge")
        if name not in __all__:
            raise AttributeError(f"module 'distill' has no attribute {name!r}")
        module, attribute = _ELSEWHERE.get(name, (f"distill.verbs.{name}", name))
        return getattr(importlib.import_module(module), attribute)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
