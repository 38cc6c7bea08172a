"""V0: value models that predict pass rates from a prompt."""
