"""The processes of a job: start (who takes part), job, control_channel, agreement."""
