"""The training loop, the objective and its losses, checkpoints. Nothing here knows a recipe."""
