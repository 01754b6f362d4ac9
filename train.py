"""Train and test one fold: ``python train.py model=enhanced_gru fold=3``; see conf/train.yaml."""

import hydra
from omegaconf import DictConfig

from ser.config import CONFIG_FOLDER
from ser.launching import launch, run_job


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="train")
def main(cfg: DictConfig) -> float:
    """Run one experiment and return its validation UAR, the objective of a search."""
    return run_job(cfg)


if __name__ == "__main__":
    launch(main)
