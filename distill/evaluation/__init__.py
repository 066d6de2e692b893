"""Judging a model: the data it is judged on, retrieval and zero-shot figures, eager latency."""
