"""Plain numpy versions of the methods, which the tests hold the library against."""
