"""What a test may not leave to the next: each kind is planted and named, and what may be left is not."""

import logging
import os
import random
import re
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import process_state


def _register(patch):
    from students.spec import STUDENTS

    patch.setitem(STUDENTS._entries, "left-behind", None)


PLANTED = {
    "the environment variable DISTILL_LEFT": lambda patch: patch.setenv("DISTILL_LEFT", "1"),
    "the environment variable PATH": lambda patch: patch.delenv("PATH"),
    "the working directory": lambda patch: patch.chdir(os.sep),
    "sys.path": lambda patch: patch.syspath_prepend("/nowhere"),
    "sys.argv": lambda patch: patch.setattr(sys, "argv", ["another"]),
    "the level of the root logger": lambda patch: patch.setattr(logging.getLogger(), "level", 7),
    "what logging is disabled": lambda patch: patch.setattr(logging.root.manager, "disable", 50),
    "torch's oneDNN": lambda patch: patch.setattr(torch.backends.mkldnn, "enabled", False),
    "students.spec.STUDENTS": _register,
    "distill.core.errors is another module": lambda patch: patch.setitem(
        sys.modules, "distill.core.errors", types.ModuleType("distill.core.errors")
    ),
}
# What is named: (how it is set, to what); those of NOW are asked for what they were, the rest return it.
SWITCHES = {
    "the umask": (os.umask, 0o027),
    "the handlers of signals": (lambda handler: signal.signal(signal.SIGTERM, handler), signal.SIG_IGN),
    "torch's threads": (torch.set_num_threads, 7),
    "torch's default dtype": (torch.set_default_dtype, torch.float64),
    "torch's deterministic algorithms": (torch.use_deterministic_algorithms, True),
    "torch's gradients": (torch._C._set_grad_enabled, False),
    "torch's precision of products": (torch.set_float32_matmul_precision, "medium"),
}
NOW = {
    "torch's threads": torch.get_num_threads,
    "torch's default dtype": torch.get_default_dtype,
    "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "torch's gradients": torch.is_grad_enabled,
    "torch's precision of products": torch.get_float32_matmul_precision,
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_left_is_named(name):
    from students.spec import STUDENTS

    assert len(STUDENTS) > 3  # loaded, so that its names are watched
    before, modules = process_state.state(), process_state.modules()
    with pytest.MonkeyPatch.context() as patch:
        PLANTED[name](patch)
        (told,) = process_state.changes(before, modules)
    assert told.startswith(name)
    assert process_state.changes(before, modules) == []


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_that_is_left_is_named(name):
    switch, value = SWITCHES[name]
    before, modules = process_state.state(), process_state.modules()
    was = NOW[name]() if name in NOW else None
    returned = switch(value)
    try:
        (told,) = process_state.changes(before, modules)
    finally:
        switch(was if name in NOW else returned)
    assert told.startswith(name)
    assert process_state.changes(before, modules) == []


def test_a_package_that_is_imported_first_here_is_no_change():
    before, modules = process_state.state(), process_state.modules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "distill.imported_here", types.ModuleType("distill.imported_here"))
        assert process_state.changes(before, modules) == []


def test_every_registry_is_watched():
    root = Path(__file__).parents[1]
    made = {
        (".".join(file.relative_to(root).with_suffix("").parts), name)
        for package in process_state.OURS
        for file in (root / package).rglob("*.py")
        for name in re.findall(r"^(\w+): Registry\[", file.read_text(encoding="utf-8"), re.M)
    }
    assert made == set(process_state.REGISTRIES)


@pytest.mark.parametrize("ran_before", [0, 3])
def test_random_numbers_are_those_of_a_test_alone(ran_before):
    """The hook of tests/conftest.py has set them for both of these tests, and the first of them draws."""
    drawn = random.random(), float(np.random.random()), float(torch.rand(()))
    random.seed(0), np.random.seed(0)
    generator = torch.Generator().manual_seed(0)
    assert drawn == (random.random(), float(np.random.random()), float(torch.rand((), generator=generator)))
    torch.rand(ran_before)


def test_the_cache_is_of_this_process(tmp_path_factory):
    from distill.core.packages.environment import cache_folder

    assert cache_folder().is_relative_to(tmp_path_factory.getbasetemp())
