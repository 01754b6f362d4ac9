"""Train and test one fold: ``python train.py model=enhanced_gru fold=3``; see conf/train.yaml."""

import hydra
from omegaconf import DictConfig

from ser.config import register_resolvers
from ser.entry import launch, train

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Run one experiment and return its validation UAR, the objective of a search."""
    return train(cfg)


if __name__ == "__main__":
    launch(main)
