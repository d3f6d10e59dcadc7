"""What every wing shares: errors, blocks of layers, settings, the cache folder. It imports no wing.

Every file may be imported from anywhere. This file has no code: each rank's start would pay for it.
"""
