"""The texts of RULER's sub-tasks, one file for each category."""
