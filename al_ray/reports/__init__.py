"""What a run tells of itself: the table of metrics, the sinks they go to, its health, the terminal, the plot.

Others compute with ``batch_metrics``, log by the keys of ``names`` to ``sinks.Sinks``, ask ``health``
whether that is well, and show by ``console.Console`` and ``plot.plot_run``."""
