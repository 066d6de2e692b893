"""A reinforced set on disk: its manifest, its shards, writing and reading them."""
