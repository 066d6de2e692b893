"""Drawing training batches from a reinforced set or from plain pairs."""
