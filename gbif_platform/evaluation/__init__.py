"""What a model is worth, computed from its predictions alone: metrics with intervals, and plots."""
