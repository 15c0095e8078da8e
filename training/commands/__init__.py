"""What the training commands share: recipes, plans, and a run's parts put together."""
