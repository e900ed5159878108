"""A model call from its body to its record: routed to an engine or a hosted model, sampled as the recipe
says."""
