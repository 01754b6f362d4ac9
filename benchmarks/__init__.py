"""Where the speed and memory figures come from: ``python -m benchmarks`` runs them all in short settings."""
