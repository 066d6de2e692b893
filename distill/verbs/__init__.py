"""The verbs: one module and one function each, same names and arguments as on the command line."""

from distill.stages import (
    student_checkpoint as student_checkpoint,  # makes the names "student:..." and "timm:..." known
)
