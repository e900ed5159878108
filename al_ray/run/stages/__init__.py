"""What a stage of a run makes of tasks: one batch a step."""
