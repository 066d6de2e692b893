"""What a phone's runtime is known to run badly or wrongly, looked for in a tower before it is trained and lowered."""
