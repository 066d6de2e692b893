"""Transformer towers as inheritance sees them: names per library, sizes, kinds, vocabularies."""
