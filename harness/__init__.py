"""Bundle → proof and figures: runners, comparison, timing, sweeps, reports."""
