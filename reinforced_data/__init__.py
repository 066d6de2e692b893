"""Sources of images and captions, and teacher knowledge stored beside them once, under exactly replayable views."""
