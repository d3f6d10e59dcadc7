"""torch modules over the kernels. A row's result depends on no other row, bit for bit.

Others may import any file of it.
"""
