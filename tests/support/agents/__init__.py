"""Agents for runners to run: ``told`` does what its task says, ``wild`` misbehaves as its task says, and
``judges`` has one whose rollouts are ranked; ``needy`` lacks something on some nodes. Those in ``frameworks``
have packages of their own, in ``client_environments``."""
