"""One module an endpoint family; each route parses, calls one function, and returns a value."""
