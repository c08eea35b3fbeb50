"""RETA: talking heads from one portrait and a voice."""

__version__ = "0.1.0"
