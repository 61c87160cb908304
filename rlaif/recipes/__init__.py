"""A recipe runs every stage, from prompts to an evaluated policy: what it may say (config.py), and the run (run.py)."""
