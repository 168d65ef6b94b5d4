"""One process of a training: step → loop.

mesh          devices, and where arrays lie
step          (with the state), loop, evaluation;  coupled  losses of a whole batch at once
updates/      what an update does to parameters
cluster/      the processes of a job: start, agree, stop together
checkpoints/  written, named whole, kept, restored, rewound
tracking/     metrics, trackers, traces
accounting/   where the time goes, and whether it still goes on
resources/    what is needed, and what is full
"""
