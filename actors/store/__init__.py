"""The store: the one actor that hands out rollouts, and what records spans for it and for gateways."""
