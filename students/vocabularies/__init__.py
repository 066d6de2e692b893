"""Merges files that ship with the package, see `students.tokenizer.cut_merges`."""
