"""What becomes of a call on its way: what the gateway adds to it, and which engine it should go to."""
