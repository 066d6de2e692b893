"""Repairs of what slicing breaks: what the removed inputs of a linear layer gave on average, or as the kept ones predict it."""
