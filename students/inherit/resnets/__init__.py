"""Inheritance between ResNets of CLIP's kind, whose channels are counted per stage: what they are, plans, slices, scores."""
