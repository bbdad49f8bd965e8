"""Artifact → variants: the files that phones run, in one bundle that proves itself."""
