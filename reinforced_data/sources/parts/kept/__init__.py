"""What listings of many rows are made of, and the folder of the cache where those of much data are kept."""
