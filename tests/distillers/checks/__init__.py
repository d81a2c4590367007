"""What the constructor, compile and fit refuse, and what they warn of."""
