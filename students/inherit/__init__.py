"""Weight inheritance: a student starts from a selection of a larger CLIP's layers, channels, heads and neurons.

After TinyCLIP (arXiv 2309.12314 section 3.2), with its selection made explicit: a strategy only *produces* a plan of
index lists (`plan`), and one function slices open_clip's transformer towers by it (`apply`). A tower that differs from
the source's in kind (activation, causality, head width, patch size, token count, vocabulary) is not bent to fit: it keeps
its own initial weights and the plan says why. Left out: learned masks, activation and Taylor scores, optimizer moments,
layouts other than open_clip's.
"""
