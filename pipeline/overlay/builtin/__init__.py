"""Topic managers that come with the product, one overlay topic a file."""
