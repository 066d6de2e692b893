"""One module per inheritance strategy."""
