"""ifcheck: can influence functions be trusted on this model?"""

__version__ = "0.1.0"
