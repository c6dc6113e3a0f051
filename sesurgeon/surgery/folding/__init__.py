"""Folding the factor of a gate, or constants in place of a block, into the layers beside it."""
