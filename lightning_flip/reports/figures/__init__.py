"""Figures: a plain table first, then a drawing of it."""
