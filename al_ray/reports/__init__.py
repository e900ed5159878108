"""What a run tells of itself: metrics of a batch, the sinks they go to, the terminal, the plot.

Others compute with ``batch_metrics``, send by ``metrics.Metrics`` and show by ``console.Console``."""
