"""What several stages must agree on, one narrow topic a module."""
