"""What the training of a student is made of, beside the loop: its start, its stops."""
