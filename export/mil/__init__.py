"""A reference for Core ML programs without Core ML: the saved package, run operation by operation in torch."""
