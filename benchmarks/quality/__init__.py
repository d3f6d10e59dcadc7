"""What is said: when blocks are lost, patched or in few bits, and that nothing else changes a text."""
