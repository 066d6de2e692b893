"""Lines of code for an app: a photo and a sentence to their embeddings by exported files; a module per language."""
