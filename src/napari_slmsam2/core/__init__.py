"""What the words mean: volumes, prompts, plans, settings, events. numpy only."""
