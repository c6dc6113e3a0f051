"""Squeeze, excitation and scale in as few passes over a tensor as there can be."""
