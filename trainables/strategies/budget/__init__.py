"""How many rollouts each prompt gets, and when to stop. Pure: no state, no randomness but the pool's."""
