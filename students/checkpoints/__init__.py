"""Published checkpoints, read into students: one file, and the name of the architecture that it is of."""
