"""The web pages of the server, rendered here, for people. They read services; what a form changes is an operation of the API."""
