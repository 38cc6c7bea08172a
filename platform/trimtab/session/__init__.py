"""One run of a sweep or of a training: Ray, slots, tracking and display, begun and ended."""
