"""Tables as rows, and what lies where in many."""
