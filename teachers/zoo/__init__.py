"""One module per family of teachers; each registers specs. Nothing heavy is imported when these modules load."""
