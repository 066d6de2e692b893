"""Making a reinforced set: planning it, asking the teachers, writing the shards, checking what was stored."""
