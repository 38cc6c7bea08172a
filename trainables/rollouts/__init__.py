"""Rollout engines: one interface, vLLM and plain transformers behind it, each in a Ray actor; their group."""
