"""Labelling in many tasks: what they ask of nodes, which executor runs them, and workers that die."""
