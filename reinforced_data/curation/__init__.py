"""Choosing among the samples of a finished set: filters in a chain, the selection they leave, and what filters share."""
