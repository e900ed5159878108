"""The store: the one actor that hands out rollouts, and what records spans for it and for gateways.

The driver holds ``keeper.StoreKeeper``. Gateways record by ``span_recorder`` and export by
``trace_exporter``."""
