"""One loss per module, each `@LOSSES.register`ed. A loss is embeddings in, scalar out; weights live in the objective."""
