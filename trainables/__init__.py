"""What one trial runs."""
