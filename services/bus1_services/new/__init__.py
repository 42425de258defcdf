"""new: a project for a service that does not exist yet."""
