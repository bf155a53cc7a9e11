"""What a long command is made of: worker processes and what they say."""
