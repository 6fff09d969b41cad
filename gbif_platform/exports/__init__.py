"""What leaves the platform: catalogues with captions."""
