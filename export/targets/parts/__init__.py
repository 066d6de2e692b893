"""What several targets share, or what would crowd one target's file: quantization by the runtimes' own tools."""
