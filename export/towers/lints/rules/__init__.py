"""One module per kind of hardware; each registers rules. Nothing heavy is imported when these modules load."""
