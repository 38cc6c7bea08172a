"""What a trial takes, what a machine or cluster has, and how many slots fit."""
