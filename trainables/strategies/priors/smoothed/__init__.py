"""Priors that smooth rewards: over a prompt's own past steps, or over the prompts of the batch."""
