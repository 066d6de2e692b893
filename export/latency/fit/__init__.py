"""Learning from published latencies what operations cost on each device, and how far off that is."""
