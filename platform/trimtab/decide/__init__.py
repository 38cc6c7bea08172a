"""What follows a search: compare, report, confirm, promote, train."""
