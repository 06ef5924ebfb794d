"""Strategies on tables of known values: `search bench`."""
