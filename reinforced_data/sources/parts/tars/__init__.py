"""What lies where in tars."""
