"""A study: networks x data sets x seeds x folds, each cell a run, all of them one table."""
