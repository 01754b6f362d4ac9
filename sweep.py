"""Variants x folds x seeds, then one summary: ``python sweep.py variant=gru,enhanced_gru``; as ``ser sweep``."""

from ser.cli.sweep import sweep

if __name__ == "__main__":
    sweep()
