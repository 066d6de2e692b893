"""Small trainable CLIPs: towers, tokenizers, weight inheritance, reparameterization, checkpoints in and out."""
