"""Fusions that weigh the value estimate by how well it predicts rewards."""
