"""What the members of all axes share, and the tables that name them."""
