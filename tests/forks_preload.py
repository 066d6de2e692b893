"""What the fork server imports, and does not run, before its first child: nearly all that `distill run` will import.

Nothing here may start a thread (pyarrow does), since a fork takes over the memory of threads, their locks too, but not the threads.
"""

# ruff: noqa: E402, F401
from distill.core.torch_compat import ensure_torchvision

ensure_torchvision()

import accelerate
import matplotlib.pyplot
import open_clip
import scipy.sparse
import timm
import torch.export._trace  # which torch.export would import at its first call

import distill.cli
import distill.stages.evaluate
import distill.stages.train
import distill.verbs.run
import export.run
import students.student
