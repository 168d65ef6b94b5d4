"""What a training tells on its way.

metric_sinks   metrics.jsonl, TensorBoard, lines of progress
trackers       Weights & Biases, MLflow, Trackio
profile        a trace
"""
