"""One YAML file a (model, data set): everything that decides a run."""
