"""Advantages, level 2: how much better than its group each call did."""
