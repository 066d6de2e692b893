"""Frozen models that turn pixels and captions into embeddings, and the specs that name them."""
