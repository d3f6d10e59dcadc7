"""Words that every wing shares: errors, blocks of layers, settings, the cache folder. No wing is imported here.

Every file may be imported from anywhere. There is no code here: each rank's start pays for it.
"""
