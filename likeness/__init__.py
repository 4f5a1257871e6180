"""Identity-preserving video generation."""
