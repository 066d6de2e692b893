"""Samples made ready for the models: decoded, drawn and rendered, and how that runs ahead of them."""
