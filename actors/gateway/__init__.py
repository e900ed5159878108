"""The gateway: the models' APIs, OTLP, rewards and events, over HTTP, for agents that have a key.

The driver holds ``pool.GatewayPool``."""
