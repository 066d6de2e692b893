"""Weight inheritance: a student starts from a selection of a larger model's layers, channels, heads and neurons.

After TinyCLIP (arXiv 2309.12314 section 3.2), with its selection made explicit: a strategy only *produces* a plan of index lists
(`planning`, `plan`), and one function slices by it (`apply`), in the layouts that `towers` has tables of. What slicing breaks is
repaired (`repairs`); what differs in kind between source and student is inherited where that is measured better than a
random start, or allowed (`start`). Left out: ResNets, gated MLPs, rotary positions; convolutional towers are adopted whole or
not at all.
"""
