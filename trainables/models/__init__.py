"""Which model a trial trains: the embedded tiny one, a local directory, or a hub id."""
