"""One process of a training: step → loop.

mesh                 devices, and where arrays lie
optimizer, step (with the state), loop, evaluation
mixout, elastic      what keeps parameters near where they were
cluster/             the processes of a job: start, agree, stop together
checkpoints/         written, named whole, kept, restored, rewound
accounting/          where the time goes, and whether it still goes on
metric_sinks         metrics.jsonl, TensorBoard, lines of progress;  profile  a trace
trackers             Weights & Biases, MLflow, Trackio
cost                 what a step needs;  accelerators  what can be got
memory, storage      what is full
"""
