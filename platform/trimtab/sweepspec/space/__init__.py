"""The searched space of a spec: ranges, settings and strategies that they apply to, and its checks."""
