"""What is known of exported files, and the folder that holds them."""
