"""What happens beside the training step: schedules, checks, curves."""
