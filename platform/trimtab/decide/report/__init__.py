"""Writes the comparison as one self-contained HTML page."""
