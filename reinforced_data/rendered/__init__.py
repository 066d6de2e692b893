"""The embedded default data set, made by code from a seed: what a scene is, how it is drawn, how it is told.

`scene` samples structure and layout, `draw` turns a scene into PNG bytes, `captions` words it. The source that strings
them together is `reinforced_data.sources.rendered`. Left out: photographs, and any claim about them.
"""

from reinforced_data.rendered.captions import captions, words
from reinforced_data.rendered.scene import COLOURS, HELD_OUT, SHAPES, VERSION, Scene, sample_scene, scene_rng

__all__ = ["COLOURS", "HELD_OUT", "SHAPES", "VERSION", "Scene", "captions", "sample_scene", "scene_rng", "words"]
