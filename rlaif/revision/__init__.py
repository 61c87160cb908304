"""Responses to better ones: a model criticises an answer by a principle of a constitution and revises it."""
