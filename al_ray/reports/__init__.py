"""What a run tells of itself: the table of metrics, the sinks they go to, the terminal, the plot.

Others compute with ``batch_metrics``, log by the keys of ``names`` to ``sinks.Sinks``, and show by
``console.Console`` and ``plot.plot_run``."""
