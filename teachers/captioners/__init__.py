"""One module per kind of captioner; each registers its builder."""
