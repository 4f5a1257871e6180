"""How references join the video: positions, the sequence, guidance and augmentation."""
