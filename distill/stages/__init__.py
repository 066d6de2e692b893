"""The stages that verbs are made of. Each leaves its result in the run folder, written last and atomically, and does
nothing when that result is there: calling all of them again is how a run resumes.
"""
