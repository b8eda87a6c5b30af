"""What a run is examined by: suites, tasks, the validation split, and that none of it is trained on."""
