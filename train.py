"""Train and test one fold: ``python train.py model=enhanced_gru fold=3``; the same as ``ser train``."""

from ser.cli.train import train

if __name__ == "__main__":
    train()
