"""What a long command is made of: processes, a growing output folder, a journal, progress."""
