"""Measurements: speed, memory, size, and agreement with the organizers, one command each."""
