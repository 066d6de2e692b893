"""Accuracy against cost: what is published, which points are on the front, and how it is drawn."""
