"""heartbeat writes what each process does now and the run's events; time_account sums them up."""
