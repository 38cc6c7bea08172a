"""Prompts, and how an answer to each is judged."""
