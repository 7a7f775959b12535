"""Denoise cryo-EM micrographs with Noise2Noise, and measure what is real in the result."""

__version__ = "0.1.0"
