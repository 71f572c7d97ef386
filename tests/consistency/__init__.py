"""Random schedules on two processes and one Redis, held against a model of what may be true."""
