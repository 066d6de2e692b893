"""From a model's name to its operations and their sizes."""
