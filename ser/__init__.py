"""Speech emotion recognition, independent of the speaker."""
