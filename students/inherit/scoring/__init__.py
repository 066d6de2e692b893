"""Scores: how much each part of a source counts, by its weights, on calibration pairs, or by masks learned on them."""
