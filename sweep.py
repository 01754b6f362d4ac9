"""Variants x folds x seeds, then one summary: ``python sweep.py variant=gru,enhanced_gru fold=all seed=1,2,3``."""

import sys

from ser.sweeping import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
