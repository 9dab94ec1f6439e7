"""What a run trains: model, loss, metrics, validation score and first weights, one file a task."""
