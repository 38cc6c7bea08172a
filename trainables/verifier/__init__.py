"""Judges answers in processes that can be killed."""
