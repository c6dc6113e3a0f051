"""Gates, and constants in their place, taken into the layers beside a block."""
