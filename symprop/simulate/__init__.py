"""Monte Carlo of the real operations, with standard errors."""
