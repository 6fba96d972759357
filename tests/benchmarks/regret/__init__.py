"""Regret: how many points of accuracy a recommendation loses against the best learning rate in hindsight."""
