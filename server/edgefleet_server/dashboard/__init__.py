"""The web page of the server: rendered here, for people; reads services only and changes nothing but its own sessions."""
