"""Which packages Python finds: are our own ours, and environments of other packages for what cannot live beside them."""
