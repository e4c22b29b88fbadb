"""What a sample is: one folder a kind."""
