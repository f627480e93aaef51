"""A task puts data, model, training and pictures together; the command line and the experiments call it."""
