"""What a study will read, cost and leave on disk, known before anything of it runs."""
