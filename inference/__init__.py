"""All that the submission image runs: from a case on disk to a label map on disk."""
