"""One large language model across small machines, which keeps answering when nodes die."""

__version__ = "0.1.0"
