"""How many rollouts each prompt gets, and when to stop. No randomness but the pool's; `cero` has state."""
