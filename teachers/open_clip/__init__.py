"""Teachers whose model open_clip builds: published ones, and CLIP folders on this disk."""
