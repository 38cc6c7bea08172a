"""Heads predict P(r = 1) from query features and a context of (features, outcome) rows."""
