"""The two towers of a student as graphs that can be deployed."""
