"""The gateway: the models' APIs, OTLP, rewards and events, over HTTP, for agents that have a key.

The driver holds ``pool.GatewayPool``, and describes it by ``spec.GatewaySpec``. ``actor`` is one, behind a
``door``; ``calls`` is the way of a call, ``dialects`` are the APIs."""
