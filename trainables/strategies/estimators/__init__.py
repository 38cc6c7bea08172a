"""From baseline to advantage: Monte Carlo, or GAE where the values are per token. The discount is 1."""
