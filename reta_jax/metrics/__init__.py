"""Figures of merit; every one states its definition."""
