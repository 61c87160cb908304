"""Objectives: pure functions of tensors, one small file per family. Nothing here knows of a trainer."""
