"""What an encoder has learned: retrieval, linear probe, zero-shot and redrawn leads, each with its uncertainty.

No Ray here, and no test patient decides anything: strengths are chosen on validation patients.
"""
