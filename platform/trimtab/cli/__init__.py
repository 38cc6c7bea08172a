"""What a user types and reads; nothing else."""
