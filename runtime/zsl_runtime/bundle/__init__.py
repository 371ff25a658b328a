"""The bundle on disk: manifest, generations, and how both are written without loss."""
