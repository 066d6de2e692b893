"""One module per family of students; each registers specs. Nothing heavy is imported when these modules load."""
