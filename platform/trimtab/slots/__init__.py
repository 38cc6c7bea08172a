"""Processes that outlive a trial: the broker, the slots, and the trial's light client."""
