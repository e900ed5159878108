"""Agents to begin with; the recipes that name them are in recipes/."""
