"""Scores, statistics, figures and reports: pure functions of prediction tables."""
