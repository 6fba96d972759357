"""Choosing max_lr by a race of short runs: what was measured in, what to measure next or a decision out."""
