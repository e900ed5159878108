"""What each trained token costs."""
