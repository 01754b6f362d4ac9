"""Every figure of the reports: functions from tables to matplotlib figures."""

from ser.evaluation.figures.calibration import confidence, duration, reliability
from ser.evaluation.figures.folders import run_figures, sweep_figures
from ser.evaluation.figures.run import classes, confusion, groups, speakers
from ser.evaluation.figures.space import feature_map
from ser.evaluation.figures.style import save_figure
from ser.evaluation.figures.training import attention_over_waveform, training_panel
from ser.evaluation.figures.variants import confusions, folds, ladder, radar, speaker_matrix

__all__ = [
    "attention_over_waveform",
    "classes",
    "confidence",
    "confusion",
    "confusions",
    "duration",
    "feature_map",
    "folds",
    "groups",
    "ladder",
    "radar",
    "reliability",
    "run_figures",
    "save_figure",
    "speaker_matrix",
    "speakers",
    "sweep_figures",
    "training_panel",
]
