"""From encoded bytes to pixels: decoding, and the augmented views that replay bit for bit."""
