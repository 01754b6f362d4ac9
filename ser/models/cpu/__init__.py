"""Layers that train faster on a CPU than torch's own, equal to them and droppable; see docs/benchmarks.md."""
