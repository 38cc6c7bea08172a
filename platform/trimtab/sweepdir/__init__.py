"""What one sweep keeps on disk: its folder, name, lock, spec and journal."""
