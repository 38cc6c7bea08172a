"""Heads: from a context of (features, outcome) rows and query features to P(r = 1)."""
