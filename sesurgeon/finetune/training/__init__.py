"""Training: phases, the loop, what is minimised, stopping and resuming."""
