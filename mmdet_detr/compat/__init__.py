"""What mends other people's packages."""
