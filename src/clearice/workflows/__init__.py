"""Rooms called in order; no maths of their own."""
