"""One module per device; each registers itself. Nothing heavy is imported when these modules load."""
