"""Work done in a process of its own: converting, timing, and how such a process is started."""
