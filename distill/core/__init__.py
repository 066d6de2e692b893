"""What every folder may use: errors, registries, strict settings, atomic files, weight look-up. Imports nothing of ours."""
