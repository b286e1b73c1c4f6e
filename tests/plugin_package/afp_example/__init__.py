"""An example of a package that adds a method, a task and a kind of source to afp_ray."""
