"""A reference for Core ML programs on machines without Core ML: the saved package, run operation by operation in torch."""
