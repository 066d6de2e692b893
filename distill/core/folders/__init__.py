"""Folders that are written to: what a disk refuses, and that one process at a time works in one."""
