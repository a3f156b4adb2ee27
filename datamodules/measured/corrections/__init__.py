"""What is taken off or changed on a measured pattern: background, Kα2, width."""
