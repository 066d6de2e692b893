"""Latencies of a run: measured, predicted for phones, and as a budget by which a student is chosen."""
