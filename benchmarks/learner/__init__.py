"""What an update costs: of the whole model (``update``), and of an adapter beside it (``adapter``)."""
