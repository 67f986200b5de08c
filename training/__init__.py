"""The trainer: real cases in, weights that the submission image reads out."""
