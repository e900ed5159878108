"""What agents may ask beside the model: a recipe's services behind HTTP, retrieval among them.

The driver holds ``pool.ServicePool``; recipes name ``retrieval:Retrieval``."""
