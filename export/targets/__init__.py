"""One module per target; each registers itself. Nothing heavy is imported when these modules load."""
