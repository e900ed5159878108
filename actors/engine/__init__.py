"""The engines: vLLM as a Ray actor that renders, continues, generates and parses a call.

The driver holds ``pool.EnginePool``; gateways call the actors of ``actor``."""
