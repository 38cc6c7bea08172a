"""What we believe about a prompt before (or without) its own group."""
