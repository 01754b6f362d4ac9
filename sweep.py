"""Variants x folds x seeds, then one summary: ``python sweep.py variant=gru,enhanced_gru fold=all seed=1,2,3``."""

import sys

from rich import get_console

from ser.errors import SerError
from ser.launching import launch

USAGE = """\
usage: python sweep.py variant=a,b [fold=all] [seed=1,2,3] [baseline=a] [key=value as for train.py ...]

Train every variant on every fold with every seed, one line per run as it ends, then one summary with paired tests.
The same command goes on where it stopped: finished runs are skipped, an interrupted one is resumed.

  variant    models (conf/model) or experiments (conf/experiment), for example gru,recommended,ladder/global
  fold       all (default), or numbers
  seed       1 (default), or several
  baseline   the variant that the others are tested against; by default statistics_logistic, which is then added with
             and without speaker statistics (seconds per run; not where settings of the model or other keys are swept)

  python sweep.py variant=gru,enhanced_gru data=ravdess data.root=/path/to/RAVDESS
  python sweep.py variant=recommended fold=1,2 optimizer.lr=1e-3,3e-4
  python sweep.py variant=gru seed=1,2,3 hydra/launcher=joblib hydra.launcher.n_jobs=2
  python sweep.py variant=gru seed=1,2,3 hydra/launcher=submitit_slurm
"""


def main() -> None:
    """Run ``train.py -m`` with the expanded command line."""
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        get_console().print(USAGE, markup=False, highlight=False, soft_wrap=True)
        return
    import train  # noqa: PLC0415  Hydra composes relative to it
    from ser.sweeping import expand  # noqa: PLC0415

    try:
        sys.argv[1:] = expand(sys.argv[1:])
    except SerError as error:
        raise SystemExit(f"error: {error}") from None
    launch(train.main)


if __name__ == "__main__":
    main()
