"""How prior and observed rewards become one baseline."""
