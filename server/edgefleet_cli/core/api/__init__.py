"""Answers of the API as frozen structs, one module a resource, all made from `openapi.json`. Import the module that a command reads."""
