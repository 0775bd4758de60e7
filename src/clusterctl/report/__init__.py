"""Renderers: a Report as text for people and machines. None of them decides anything."""
