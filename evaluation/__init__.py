"""The challenge at home: simulated user, scores, interaction protocol and report."""
