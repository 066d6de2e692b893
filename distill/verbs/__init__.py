"""The verbs: one module and one function each, same names and arguments as on the command line."""

from distill.stages.training import checkpoint_files as checkpoint_files  # makes "student:..." and "timm:..." known
