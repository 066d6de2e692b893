"""From a model, any CLIP or the student of a run, to its exported files: what is exported, on which samples, and the stage."""
