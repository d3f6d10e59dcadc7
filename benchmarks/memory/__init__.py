"""What it takes in memory and in files, and in time beside that."""
