"""What a trial needs, what a machine or cluster offers, and how many slots fit."""
