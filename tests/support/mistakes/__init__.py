"""What a user does wrong, by what it is done with."""
