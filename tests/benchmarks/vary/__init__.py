"""Pairs of a rate and another value: what ``--vary`` chooses against grids that were trained to the end."""
