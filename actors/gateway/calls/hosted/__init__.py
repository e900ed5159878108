"""Calls that a hosted model answers, anybody's server with OpenAI's API: ``model``."""
