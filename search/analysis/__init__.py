"""What the trials of a run say read together: what matters, how sure a curve is, where a point is from."""
