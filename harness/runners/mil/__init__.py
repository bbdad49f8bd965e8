"""Core ML's programs, evaluated without a Mac."""
