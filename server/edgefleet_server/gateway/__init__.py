"""MQTT in and out: the broker child, the paho client, device messages to services and desired documents to devices."""
