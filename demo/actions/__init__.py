"""What the browser may call, one module for each panel of the page."""
