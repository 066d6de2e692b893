"""What a process keeps from one test to the next: every test finds its random numbers alike, and must leave the rest as it was.

`loadfile` gives each process of the suite other files in another order from run to run, so that a test which lives on what an earlier
one left passes today and fails tomorrow. Left out: module caches of other packages (each has its test's own mend, as Core ML's names).
"""

import logging
import multiprocessing
import os
import random
import signal
import sys
import warnings
from typing import Any

import numpy as np

OURS = {"distill", "export", "reinforced_data", "students", "teachers"}
REGISTRIES = (
    ("distill.learning.loss", "LOSSES"),
    ("export.target", "TARGETS"),
    ("export.towers.lints.rule", "RULES"),
    ("export.device", "DEVICES"),
    ("students.spec", "STUDENTS"),
    ("students.inherit.strategy", "STRATEGIES"),
    ("teachers.teacher", "TEACHER_LOADERS"),
    ("teachers.spec", "TEACHERS"),
    ("teachers.captioner", "CAPTIONERS"),
    ("teachers.captioner", "CAPTIONER_SPECS"),
    ("reinforced_data.source", "SOURCES"),
    ("reinforced_data.curation.filter", "FILTERS"),
)
# What importing another package sets for good, whichever test is the first to need it.
BY_IMPORTS = {
    "KMP_DUPLICATE_LIB_OK": "scikit-learn",
    "PYTEST_CURRENT_TEST": "pytest",
    "TOKENIZERS_PARALLELISM": "open_clip",
    "TORCHINDUCTOR_CACHE_DIR": "torch._inductor",
}
PATHS_BY_IMPORTS = (os.path.join("onnxruntime", "transformers"),)
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def begin_random_numbers() -> None:
    """Python's, numpy's and torch's generators at the same place; torch counts once it is imported, and begins alike by itself."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)


def state() -> dict[str, Any]:
    """Name -> value of what a test has to leave as it found it. Takes a tenth of a millisecond."""
    root = logging.getLogger()
    mask = os.umask(0)
    os.umask(mask)
    found: dict[str, Any] = {
        "the working directory": os.getcwd(),
        "the umask": mask,
        "sys.argv": list(sys.argv),
        "sys.path": [place for place in sys.path if not place.endswith(PATHS_BY_IMPORTS)],
        "sys.dont_write_bytecode": sys.dont_write_bytecode,
        "the level of the root logger": root.level,
        "what logging is disabled": logging.root.manager.disable,
        "the handlers of signals": [signal.getsignal(number) for number in ENDINGS],
        "how processes are started": multiprocessing.get_start_method(allow_none=True)
        or multiprocessing.get_all_start_methods()[0],  # the default, which the first use settles
        "warnings.showwarning": warnings.showwarning,
    }
    for name, value in os.environ.items():
        if name not in BY_IMPORTS:
            found[f"the environment variable {name}"] = value
    if torch := sys.modules.get("torch"):
        found |= {
            "torch's threads": torch.get_num_threads(),
            "torch's default dtype": torch.get_default_dtype(),
            "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "torch's gradients": torch.is_grad_enabled(),
            "torch's inference mode": torch.is_inference_mode_enabled(),
            "torch's precision of products": torch.get_float32_matmul_precision(),
            "torch's oneDNN": torch.backends.mkldnn.enabled,
        }
    for module, name in REGISTRIES:
        registry = getattr(sys.modules.get(module), name, None)
        if registry is not None and registry._loaded:  # until then an import adds to it
            found[f"{module}.{name}"] = sorted(registry._entries)
    return found


def modules() -> dict[str, Any]:
    """The modules that are imported."""
    return dict(sys.modules)


def changes(before: dict[str, Any], modules_before: dict[str, Any]) -> list[str]:
    """What is not as it was, a sentence each. What is new because a package was imported first is none."""
    after = state()
    imported = any(name.partition(".")[0] not in OURS for name in sys.modules.keys() - modules_before.keys())
    told = [
        f"{name} was {before.get(name, 'not set')!r} and is {after.get(name, 'not set')!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and (name in before or (name.startswith("the environment") and not imported))  # packages set some when imported
    ]
    # A module that is imported anew has other classes and other registries than what the rest of the process holds.
    for name, module in modules_before.items():
        if sys.modules.get(name) is not module and name.partition(".")[0] in OURS:
            told.append(f"{name} is another module than it was, or none")
    return told
