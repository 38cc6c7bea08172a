"""How the probe learns: its buffer, its regression, and the survey of all decoder blocks."""
