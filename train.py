"""Train and test one fold: ``python train.py model=enhanced_gru fold=3``; see conf/train.yaml."""

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from ser.configuration import register_resolvers
from ser.errors import SerError

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Run one experiment and return its validation UAR, the objective of a search."""
    from ser.training import run  # noqa: PLC0415  torch loads only when something runs, so --help is quick

    try:
        return run(cfg)
    except SerError as error:
        raise CompactHydraException(f"error: {error}") from None  # one sentence instead of a traceback


if __name__ == "__main__":
    main()
