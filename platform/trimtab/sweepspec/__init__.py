"""What a user writes to start a sweep: parsed, checked, turned into search spaces."""
